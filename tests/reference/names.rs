//! How each item of the contract is called in each SDK. What stands between backticks must be a name that the SDK has.

/// An item, and its names in Rust, JavaScript and Python. A function of a resource is named after a dot.
pub type Names = (&'static str, [&'static str; 3]);

/// One line for each item; the trial fails on an item without one, and on a line without an item.
pub const NAMES: &[Names] = &[
    (
        "waypost:call/types/json",
        [
            "any type that serde knows",
            "any value that JSON has",
            "any value that JSON has",
        ],
    ),
    ("waypost:call/types/meta", ["`Meta`", "`Meta`", "`Meta`"]),
    (
        "waypost:call/types/request",
        [
            "`gateway::Request`",
            "the arguments of `gateway.call`",
            "the arguments of `gateway.call`",
        ],
    ),
    (
        "waypost:call/types/reply",
        [
            "its message alone, typed",
            "its message alone, parsed",
            "its message alone, parsed",
        ],
    ),
    (
        "waypost:call/types/call-error",
        ["`CallError`", "`CallError`", "`CallError`"],
    ),
    (
        "waypost:gateway/calls/call",
        ["`gateway::call`, `Request::call`", "`gateway.call`", "`gateway.call`"],
    ),
    (
        "waypost:gateway/calls/running",
        [
            "`gateway::Running`; dropping it cancels the call",
            "`gateway.Running`; `running.cancel` cancels the call",
            "`gateway.Running`; leaving its `with` block cancels the call",
        ],
    ),
    (
        "waypost:gateway/calls/running.start",
        ["`Request::start`", "`gateway.start`", "`gateway.start`"],
    ),
    (
        "waypost:gateway/calls/running.next",
        ["`Running::chunks`", "`running.chunks`", "`running.chunks`"],
    ),
    (
        "waypost:gateway/calls/running.finish",
        ["`Running::finish`", "`running.finish`", "`running.finish`"],
    ),
    (
        "waypost:gateway/answer/emit",
        ["`Call::emit`", "`call.emit`", "`call.emit`"],
    ),
    (
        "waypost:state/store/get",
        ["`state::get`", "`state.get`", "`state.get`"],
    ),
    (
        "waypost:state/store/set",
        ["`state::set`", "`state.set`", "`state.set`"],
    ),
    (
        "waypost:state/store/remove",
        ["`state::remove`", "`state.remove`", "`state.remove`"],
    ),
    (
        "waypost:state/store/keys",
        ["`state::keys`", "`state.keys`", "`state.keys`"],
    ),
    (
        "waypost:log/log/level",
        ["a function for each", "a function for each", "a function for each"],
    ),
    (
        "waypost:log/log/log",
        [
            "`log::debug`, `log::info`, `log::warn`, `log::error`",
            "`log.debug`, `log.info`, `log.warn`, `log.error`",
            "`log.debug`, `log.info`, `log.warn`, `log.error`",
        ],
    ),
    (
        "waypost:workspace/folders/folder",
        ["a `String`", "a `string`", "a `str`"],
    ),
    (
        "waypost:workspace/folders/create",
        ["`workspace::create`", "`workspace.create`", "`workspace.create`"],
    ),
    (
        "waypost:workspace/folders/exists",
        ["`workspace::exists`", "`workspace.exists`", "`workspace.exists`"],
    ),
    (
        "waypost:workspace/folders/remove",
        ["`workspace::remove`", "`workspace.remove`", "`workspace.remove`"],
    ),
    (
        "waypost:http/client/secret",
        [
            "`http::Request::secret`",
            "`http.secret`, `http.bearer`",
            "`http.Secret`, `http.bearer`",
        ],
    ),
    (
        "waypost:http/client/value",
        [
            "`http::Request::header` or `http::Request::secret`",
            "a text or what `http.secret` makes",
            "a text or an `http.Secret`",
        ],
    ),
    (
        "waypost:http/client/header",
        [
            "`http::Request::header`",
            "`headers` of the `http.Options`",
            "`headers` of `http.send`",
        ],
    ),
    (
        "waypost:http/client/request",
        [
            "`http::Request`",
            "`http.send`, `http.get`, `http.post`, with `http.Options`",
            "`http.send`, `http.get`, `http.post`",
        ],
    ),
    (
        "waypost:http/client/response",
        ["`http::Response`", "`http.Response`", "`http.Response`"],
    ),
    (
        "waypost:http/client/body",
        [
            "`http::Response`",
            "`http.Response`; `response.close` closes the connection",
            "`http.Response`; leaving its `with` block closes the connection",
        ],
    ),
    (
        "waypost:http/client/body.next",
        [
            "`http::Response::pieces`",
            "`response.pieces`, `response.bytes`, `response.text`, `response.json`",
            "`response.pieces`, `response.read`, `response.text`, `response.json`",
        ],
    ),
    (
        "waypost:http/client/send",
        ["`http::Request::send`", "`http.send`", "`http.send`"],
    ),
    (
        "waypost:files/files/kind",
        [
            "`files::Kind`",
            "`files.Kind`, as in `\"file\"`",
            "`files.Kind`, as in `\"file\"`",
        ],
    ),
    (
        "waypost:files/files/info",
        [
            "`files::Info`",
            "`files.Info`; `Info.changed` is a `Date`",
            "`files.Info`; `Info.changed` is a `datetime`",
        ],
    ),
    (
        "waypost:files/files/entry",
        ["`files::Entry`", "`files.Entry`", "`files.Entry`"],
    ),
    (
        "waypost:files/files/stat",
        [
            "`files::stat`",
            "`files.stat`; `undefined` when nothing is there",
            "`files.stat`; `None` when nothing is there",
        ],
    ),
    (
        "waypost:files/files/list",
        ["`files::list`", "`files.list`", "`files.list`"],
    ),
    (
        "waypost:files/files/reader",
        ["`files::Reader`", "`files.Reader`", "`files.Reader`"],
    ),
    (
        "waypost:files/files/reader.open",
        ["`files::Reader::open`", "`files.open`", "`files.open`"],
    ),
    (
        "waypost:files/files/reader.next",
        [
            "the iterator of a `files::Reader`; `files::read`, `files::read_text`",
            "the iterator of a `files.Reader`; `files.read`, `files.readText`",
            "the iterator of a `files.Reader`; `files.read`, `files.read_text`",
        ],
    ),
    (
        "waypost:files/files/write",
        ["`files::write`", "`files.write`", "`files.write`"],
    ),
    (
        "waypost:files/files/remove",
        ["`files::remove`", "`files.remove`", "`files.remove`"],
    ),
    (
        "waypost:process/programs/command",
        [
            "`process::Command`",
            "the arguments of `process.run` and `process.start`",
            "the arguments of `process.run` and `process.start`",
        ],
    ),
    (
        "waypost:process/programs/piece",
        ["`process::Piece`", "`Piece`", "`Piece`"],
    ),
    (
        "waypost:process/programs/ending",
        ["`process::Ending`", "`Ending`", "`Ending`"],
    ),
    (
        "waypost:process/programs/running",
        [
            "`process::Running`; `Command::run` reads it to its end",
            "`Running`; `process.run` reads it to its end",
            "`Running`; `process.run` reads it to its end",
        ],
    ),
    (
        "waypost:process/programs/running.start",
        ["`Command::start`", "`process.start`", "`process.start`"],
    ),
    (
        "waypost:process/programs/running.next",
        [
            "the iterator of a `process::Running`",
            "the iterator of a `Running`",
            "the iterator of a `Running`",
        ],
    ),
    (
        "waypost:process/programs/running.finish",
        ["`process::Running::finish`", "`Running.finish`", "`Running.finish`"],
    ),
    (
        "waypost:socket/sockets/connection",
        ["`socket::Connection`", "`Connection`", "`Connection`"],
    ),
    (
        "waypost:socket/sockets/connection.connect",
        [
            "`socket::Connection::open`, `socket::Connection::open_for`",
            "`socket.open`",
            "`socket.open`",
        ],
    ),
    (
        "waypost:socket/sockets/connection.send",
        ["`socket::Connection::send`", "`Connection.send`", "`Connection.send`"],
    ),
    (
        "waypost:socket/sockets/connection.finish",
        [
            "`socket::Connection::finish`",
            "`Connection.finish`",
            "`Connection.finish`",
        ],
    ),
    (
        "waypost:socket/sockets/connection.next",
        [
            "the iterator of a `socket::Connection`",
            "the iterator of a `Connection`",
            "the iterator of a `Connection`",
        ],
    ),
    (
        "waypost:plugin/handler/incoming",
        [
            "`Call`, and the message beside it, typed; `Call::time_left` is a `Duration`",
            "`Call`, and the message beside it, parsed",
            "`Call`, and the message beside it, parsed",
        ],
    ),
    (
        "waypost:plugin/handler/handle",
        ["`handler!`", "`handler`", "`handler`, `Handler.serves`"],
    ),
    (
        "waypost:plugin/provider/wanted",
        [
            "`Wanted`; `Wanted::settings` reads the settings, typed",
            "`Wanted`",
            "`Wanted`",
        ],
    ),
    (
        "waypost:plugin/provider/runtime",
        ["`Runtime`", "`Place.runtime`", "`Place.folder`"],
    ),
    (
        "waypost:plugin/provider/place",
        [
            "`Place`, `Place::component`",
            "`Place`, `Place.component`",
            "`Place`, `Place.component`",
        ],
    ),
    (
        "waypost:plugin/provider/health",
        [
            "`Health`",
            "`Health`, as in `\"ready\"`",
            "`Health`, as in `Health.READY`",
        ],
    ),
    (
        "waypost:plugin/provider/create",
        [
            "`Provider::create`, with `provider!`",
            "`Provider.create`, with `provider`",
            "`Operations.create`, with `provider`",
        ],
    ),
    (
        "waypost:plugin/provider/reconnect",
        [
            "`Provider::reconnect`",
            "`Provider.reconnect`",
            "`Operations.reconnect`",
        ],
    ),
    (
        "waypost:plugin/provider/inspect",
        ["`Provider::inspect`", "`Provider.inspect`", "`Operations.inspect`"],
    ),
    (
        "waypost:plugin/provider/teardown",
        ["`Provider::teardown`", "`Provider.teardown`", "`Operations.teardown`"],
    ),
    ("waypost:plugin/agent/turn", ["`Turn`", "`Turn`", "`Turn`"]),
    (
        "waypost:plugin/agent/task",
        ["`Task`; `Task::settings` reads the settings, typed", "`Task`", "`Task`"],
    ),
    (
        "waypost:plugin/agent/outcome",
        [
            "`Outcome`, `Outcome::new`",
            "`Outcome`, or its message alone",
            "`Outcome`, or its message alone",
        ],
    ),
    ("waypost:plugin/agent/run", ["`agent!`", "`agent`", "`agent`"]),
    (
        "waypost:plugin/observer/notification",
        [
            "`Notification`; `Notification::message` and `Notification::reply` are typed",
            "`Notification`; its end is `Notification.reply` or `Notification.error`",
            "`Notification`; its end is `Notification.reply` or `Notification.error`",
        ],
    ),
    (
        "waypost:plugin/observer/notice",
        ["`observer!`", "`observer`", "`observer`"],
    ),
];
