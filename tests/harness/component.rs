//! Components as text, for what a Rust guest cannot say: a start section that never ends, a table that grows, imports
//! that no SDK has. Each is a whole handler that answers `null`, plus what makes it special.

/// A handler in the making.
pub struct Text {
    imports: &'static str,
    memory: &'static str,
    host: &'static str,
    items: &'static str,
    body: &'static str,
    allocating: &'static str,
    afterwards: &'static str,
    export: &'static str,
    /// What stands in its text instead of something else.
    other: (&'static str, &'static str),
}

impl Text {
    /// A handler that answers `null`.
    pub fn handler() -> Self {
        Self {
            imports: "",
            memory: "1",
            host: "",
            items: "",
            body: "",
            allocating: "",
            afterwards: "",
            export: "waypost:plugin/handler@0.1.0",
            other: ("", ""),
        }
    }

    /// With these imports of the component.
    pub fn imports(self, imports: &'static str) -> Self {
        Self { imports, ..self }
    }

    /// With a memory of at least so many pages.
    pub fn memory(self, memory: &'static str) -> Self {
        Self { memory, ..self }
    }

    /// With this import of its core module from `host`, a core instance of that name.
    pub fn host(self, host: &'static str) -> Self {
        Self { host, ..self }
    }

    /// With these items in its core module.
    pub fn items(self, items: &'static str) -> Self {
        Self { items, ..self }
    }

    /// Doing this before it answers.
    pub fn body(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    /// Doing this whenever memory is asked for.
    pub fn allocating(self, allocating: &'static str) -> Self {
        Self { allocating, ..self }
    }

    /// Doing this when its answer was taken.
    pub fn afterwards(self, afterwards: &'static str) -> Self {
        Self { afterwards, ..self }
    }

    /// Under another name of its interface.
    pub fn export(self, export: &'static str) -> Self {
        Self { export, ..self }
    }

    /// With this in its text instead of that.
    pub fn with(self, instead: &'static str, this: &'static str) -> Self {
        Self {
            other: (instead, this),
            ..self
        }
    }

    /// The component.
    pub fn bytes(&self) -> Vec<u8> {
        let Self {
            imports,
            memory,
            host,
            items,
            body,
            allocating,
            afterwards,
            export,
            other: (instead, this),
        } = self;
        let with = if host.is_empty() {
            ""
        } else {
            "(with \"host\" (instance $host))"
        };
        // The reply stands at 16: no error, a text of four bytes at 64, no meta.
        let text = format!(
            r#"(component
                {imports}
                (type $meta (list (tuple string string)))
                (type $incoming' (record
                    (field "id" string) (field "kind" string) (field "action" (option string)) (field "message" string)
                    (field "project" string) (field "run" (option string)) (field "environment" (option string))
                    (field "time-left-ms" u64) (field "meta" $meta)))
                (export $incoming "incoming" (type $incoming'))
                (type $reply' (record (field "message" string) (field "meta" $meta)))
                (export $reply "reply" (type $reply'))
                (type $error' (variant
                    (case "not-found" string) (case "denied" string) (case "invalid" string) (case "limit" string)
                    (case "timeout" string) (case "cancelled" string) (case "trapped" string)
                    (case "unavailable" string) (case "indeterminate" string) (case "internal" string)
                    (case "other" string)))
                (export $error "call-error" (type $error'))
                (core module $module
                    {host}
                    (memory (export "memory") {memory})
                    (global $next (mut i32) (i32.const 4096))
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                        {allocating}
                        global.get $next
                        (global.set $next (i32.add (global.get $next)
                            (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8)))))
                    (data (i32.const 16) "\00\00\00\00\40\00\00\00\04\00\00\00\00\00\00\00\00\00\00\00")
                    (data (i32.const 64) "null")
                    {items}
                    (func (export "handle") (param i32) (result i32)
                        {body}
                        i32.const 16)
                    (func (export "afterwards") (param i32) {afterwards}))
                (core instance $instance (instantiate $module {with}))
                (alias core export $instance "memory" (core memory $memory))
                (func $handle (param "call" $incoming) (result (result $reply (error $error)))
                    (canon lift (core func $instance "handle") (memory $memory) (realloc (core func $instance "realloc"))
                        (post-return (core func $instance "afterwards"))))
                (instance $handler (export "handle" (func $handle)))
                (export "{export}" (instance $handler)))"#
        );
        assert!(text.contains(instead), "{instead} is not in:\n{text}");
        let text = if instead.is_empty() {
            text
        } else {
            text.replace(instead, this)
        };
        wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
    }
}
