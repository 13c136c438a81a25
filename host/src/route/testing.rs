//! What the tests of this folder share: calls in a workspace, and tables from texts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::call::{Call, CallName, Json, Principal, PrincipalKind, Rights, Scope};
use crate::config;
use crate::route::{ProxyExecution, Table};
use crate::workspace::Workspace;

/// Makes calls in one workspace that is there as long as this lives.
pub(super) struct Calls {
    folder: tempfile::TempDir,
    workspace: Arc<Workspace>,
}

impl Calls {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
        Self { folder, workspace }
    }

    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A call of `agent:a1` outside any environment.
    pub(super) fn call(&self, name: &str, message: serde_json::Value) -> Call {
        self.in_environment(name, message, "a1", None, &[])
    }

    pub(super) fn in_environment(
        &self,
        name: &str,
        message: serde_json::Value,
        agent: &str,
        environment: Option<&str>,
        labels: &[(&str, &str)],
    ) -> Call {
        let principal = Principal {
            project: "default".into(),
            run: None,
            kind: PrincipalKind::Agent,
            id: agent.into(),
            rights: Rights::all(),
        };
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        let scope = Scope {
            environment: environment.map(Into::into),
            labels,
            workspace: Arc::clone(&self.workspace),
        };
        let name: CallName = name.parse().unwrap();
        Call::new(
            name,
            Json::from(message),
            Arc::new(principal),
            Arc::new(scope),
            Duration::from_secs(1),
        )
    }
}

/// A table from the texts of both files.
pub(super) fn table(rules: &str, proxy: &str) -> Table {
    let proxy = if proxy.is_empty() {
        None
    } else {
        Some(ProxyExecution::parse(proxy).unwrap().0)
    };
    Table::new(config::load(rules).unwrap().routes, proxy)
}
