//! What wit-bindgen makes of `wit/`: the imports once, and one module for each role that a component may play.
//!
//! A role's exports, and the section that declares them, come into being only where its export macro is called, so that
//! a component has one role however many this crate knows.

/// The imports of every role, and the words they share.
#[allow(
    missing_docs,
    reason = "the generator documents the items of the contract, not its own modules"
)]
pub mod imports {
    wit_bindgen::generate!({
        world: "waypost:plugin/imports",
        path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/http", "../wit/files", "../wit/process", "../wit/socket", "../wit/plugin"],
        generate_all,
        with: { "waypost:call/types@0.1.0/call-error": crate::CallError },
    });
}

/// Makes the module of one role on top of [`imports`], so that all roles have the same types.
macro_rules! role {
    ($module:ident, $world:literal, $path:literal, $macro_name:literal) => {
        #[doc(hidden)]
        #[allow(missing_docs, reason = "the generator documents the items of the contract, not its own modules")]
        pub mod $module {
            wit_bindgen::generate!({
                world: $world,
                path: ["../wit/call", "../wit/gateway", "../wit/state", "../wit/log", "../wit/workspace", "../wit/http", "../wit/files", "../wit/process", "../wit/socket", "../wit/plugin"],
                with: {
                    "waypost:call/types@0.1.0": crate::bindings::imports::waypost::call::types,
                    "waypost:call/types@0.1.0/call-error": crate::CallError,
                    "waypost:gateway/calls@0.1.0": crate::bindings::imports::waypost::gateway::calls,
                    "waypost:gateway/answer@0.1.0": crate::bindings::imports::waypost::gateway::answer,
                    "waypost:state/store@0.1.0": crate::bindings::imports::waypost::state::store,
                    "waypost:log/log@0.1.0": crate::bindings::imports::waypost::log::log,
                    "waypost:workspace/folders@0.1.0": crate::bindings::imports::waypost::workspace::folders,
                    "waypost:http/client@0.1.0": crate::bindings::imports::waypost::http::client,
                    "waypost:files/files@0.1.0": crate::bindings::imports::waypost::files::files,
                    "waypost:process/programs@0.1.0": crate::bindings::imports::waypost::process::programs,
                    "waypost:socket/sockets@0.1.0": crate::bindings::imports::waypost::socket::sockets,
                },
                pub_export_macro: true,
                export_macro_name: $macro_name,
                default_bindings_module: $path,
            });
        }
    };
}

role!(
    handler,
    "waypost:plugin/handler-plugin",
    "waypost_sdk::bindings::handler",
    "export_handler"
);
role!(
    provider,
    "waypost:plugin/provider-plugin",
    "waypost_sdk::bindings::provider",
    "export_provider"
);
role!(
    agent,
    "waypost:plugin/agent-plugin",
    "waypost_sdk::bindings::agent",
    "export_agent"
);
role!(
    observer,
    "waypost:plugin/observer-plugin",
    "waypost_sdk::bindings::observer",
    "export_observer"
);
