//! The floor of a sandboxed call: what a careful embedder writes with nothing but wasmtime.
//!
//! The same settings, the same imports, the same things in the store: a table, limits, WASI when the guest asks for it,
//! epochs that yield. There is no routing, no log, no deadline, and the call's record is made only once.

use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use waypost::config::Limits;
use waypost::engine::{self, TICK};

use crate::Outcome;
use crate::hub::MESSAGE;

mod bindings {
    wasmtime::component::bindgen!({
        path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/http", "../wit/files", "../wit/process", "../wit/socket", "../wit/plugin"],
        world: "waypost:plugin/handler-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

use bindings::exports::waypost::plugin::handler::Incoming;
use bindings::waypost::gateway::answer;
use bindings::waypost::log::log;
use bindings::{HandlerPlugin, HandlerPluginPre, waypost::call::types};

/// A component, ready to be instantiated.
pub(crate) struct Embedder {
    engine: Engine,
    pre: HandlerPluginPre<Data>,
    incoming: Incoming,
    limits: Limits,
}

/// What one call has.
pub(crate) struct Data {
    table: ResourceTable,
    limits: StoreLimits,
    wasi: Option<WasiCtx>,
}

impl Embedder {
    pub(crate) fn new(limits: &Limits, component: &[u8]) -> Outcome<Self> {
        let engine = Engine::new(&engine::settings(limits))?;
        let weak = engine.weak();
        std::thread::Builder::new().spawn(move || {
            #[expect(clippy::disallowed_methods, reason = "the clock of the epochs")]
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        types::add_to_linker::<_, HasSelf<_>>(&mut linker, |data| data)?;
        answer::add_to_linker::<_, HasSelf<_>>(&mut linker, |data| data)?;
        log::add_to_linker::<_, HasSelf<_>>(&mut linker, |data| data)?;
        let pre = HandlerPluginPre::new(linker.instantiate_pre(&Component::new(&engine, component)?)?)?;
        let incoming = Incoming {
            id: "0192f3c1-a2b3-7000-8000-000000000000".to_owned(),
            kind: "sandbox".to_owned(),
            action: Some("read".to_owned()),
            message: MESSAGE.to_owned(),
            project: "default".to_owned(),
            run: Some("run".to_owned()),
            environment: None,
            time_left_ms: 30_000,
            meta: Vec::new(),
        };
        Ok(Self {
            engine,
            pre,
            incoming,
            limits: limits.clone(),
        })
    }

    /// Instantiate, call, drop.
    pub(crate) async fn call(&self) -> Outcome<()> {
        self.called().await.map(drop)
    }

    /// A live instance in a store of its own that has answered one call.
    pub(crate) async fn called(&self) -> Outcome<(Store<Data>, HandlerPlugin)> {
        let plugin = &self.limits.plugin;
        let limits = StoreLimitsBuilder::new()
            .memory_size(plugin.memory)
            .table_elements(plugin.table_elements)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(plugin.handles);
        let mut store = Store::new(
            &self.engine,
            Data {
                table,
                limits,
                wasi: None,
            },
        );
        store.limiter(|data| &mut data.limits);
        store.set_hostcall_fuel(plugin.host_call);
        store.set_max_component_handles(plugin.handles);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let instance = self.pre.instantiate_async(&mut store).await?;
        let reply = instance
            .waypost_plugin_handler()
            .call_handle(&mut store, &self.incoming)
            .await??;
        if reply.message != MESSAGE {
            return Err(reply.message.into());
        }
        Ok((store, instance))
    }
}

impl WasiView for Data {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView {
            ctx,
            table: &mut self.table,
        }
    }
}

impl types::Host for Data {}

impl answer::Host for Data {
    async fn emit(&mut self, _: String) -> wasmtime::Result<Result<(), types::CallError>> {
        Ok(Ok(()))
    }
}

impl log::Host for Data {
    async fn log(&mut self, _: log::Level, _: String) -> wasmtime::Result<()> {
        Ok(())
    }
}
