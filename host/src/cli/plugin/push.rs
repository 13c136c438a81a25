//! `waypost plugin push`: a component into a registry, with its signature.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::super::{Context, output};
use super::source::{Signature, from_file, registry};
use crate::config::{self, Config};
use crate::error::Result;

#[derive(Debug, Args)]
#[command(after_help = "A signature beside the file, <file>.minisig, goes with it.
The name and the password for the registry are those of WAYPOST_REGISTRY_USER and WAYPOST_REGISTRY_PASSWORD.")]
pub(in crate::cli) struct Push {
    /// The component file, with its manifest inside.
    file: PathBuf,
    /// Where to, as <registry>/<name>:<tag>.
    reference: String,
}

impl Push {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode> {
        let config = Config::read(&context.project.join(config::FILE))?;
        let reference = self.reference.strip_prefix("oci:").unwrap_or(&self.reference);
        let registry = registry(&config, reference)?;
        let largest = config.limits.plugin.component;
        let fetched = from_file(&context.project, &self.file, largest, &Signature::Beside)?;
        let signed = fetched.signature.is_some();
        let digest = registry.push(fetched.bytes, fetched.signature).await?;
        if context.json {
            output::json(&json!({ "reference": reference, "digest": digest, "signed": signed }))?;
        } else {
            let name = reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
            output::line(&format!("{}@{digest}", name.map_or(reference, |(name, _)| name)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
