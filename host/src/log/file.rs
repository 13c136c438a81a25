//! The file of the log, `log.db` in the state directory: its schema, how it is opened, and when that is refused.
//!
//! A file that is damaged, newer or not ours stays as it is. Not here: what is written to it and read from it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::blobs;
use crate::error::{Blame, Error, ErrorKind, Result};

/// The version of the schema below, kept in the file as `user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE event (
        cursor INTEGER PRIMARY KEY,
        run TEXT NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        call BLOB,
        body TEXT NOT NULL,
        UNIQUE (run, seq)
    ) STRICT;
    CREATE TABLE record (
        noun TEXT NOT NULL,
        id TEXT NOT NULL,
        project TEXT NOT NULL,
        state TEXT NOT NULL,
        body TEXT NOT NULL,
        cursor INTEGER NOT NULL,
        PRIMARY KEY (noun, id)
    ) STRICT;
    CREATE INDEX record_by_age ON record (noun, cursor);
    CREATE TABLE state (
        project TEXT NOT NULL,
        plugin TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (project, plugin, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE store (
        project TEXT NOT NULL,
        plugin TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (project, plugin)
    ) STRICT, WITHOUT ROWID;
";

/// Where the file is.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("log.db")
}

fn flags(access: OpenFlags) -> OpenFlags {
    // One thread at a time uses a connection, so SQLite need not lock it.
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Opens the file to write, with its schema; makes it when it is missing.
pub(super) fn connect(state_dir: &Path) -> Result<Connection> {
    let file = path(state_dir);
    blobs::create_folder(state_dir).map_err(|error| no_folder(state_dir, error))?;
    // SQLite would make it readable for all; the files beside it take over its mode.
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&file)
        .and_then(|_| blobs::sync_folder(state_dir))
        .map_err(|error| no_folder(state_dir, error))?;
    let connection = Connection::open_with_flags(&file, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))
        .map_err(|error| unusable(&file, error))?;
    let (version, tables) = describe(&connection).map_err(|error| unusable(&file, error))?;
    if version > SCHEMA_VERSION {
        let message = format!(
            "`{}` was written by a newer waypost (schema {version}, this one reads up to {SCHEMA_VERSION}): upgrade \
             this waypost, or give it another state directory",
            file.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Operator));
    }
    let fresh = version == 0 && tables == 0;
    if !fresh && version != SCHEMA_VERSION {
        let message = format!(
            "`{}` is a database, but not an event log, and was left as it is: give waypost another state directory",
            file.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message).blame(Blame::Operator));
    }
    prepare(&connection, fresh).map_err(|error| unusable(&file, error))?;
    Ok(connection)
}

/// Opens the file, which is there, to read.
pub(super) fn connect_reader(file: &Path) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(file, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))
}

fn describe(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((version, tables))
}

fn prepare(connection: &Connection, fresh: bool) -> rusqlite::Result<()> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let cannot = rusqlite::ffi::Error {
            code: ErrorCode::CannotOpen,
            extended_code: 0,
        };
        let message = "this file system has no shared memory for a write-ahead log".to_owned();
        return Err(rusqlite::Error::SqliteFailure(cannot, Some(message)));
    }
    // `fullfsync` asks macOS for what fsync means elsewhere. The size limit gives back what a burst took.
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    if fresh {
        connection.execute_batch(&format!(
            "BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        ))?;
    }
    Ok(())
}

/// The refusal of a state directory.
pub(super) fn no_folder(state_dir: &Path, error: std::io::Error) -> Error {
    let message = format!(
        "the state directory `{}` cannot be used: it must be a folder that this user may write to, with room",
        state_dir.display()
    );
    Error::new(ErrorKind::Unavailable, message)
        .blame(Blame::Operator)
        .because(error)
}

/// The refusal of a file.
pub(super) fn unusable(file: &Path, error: rusqlite::Error) -> Error {
    let file = file.display();
    let message = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => format!(
            "`{file}` is damaged and was left as it is: restore it from a backup, or move it away to start an empty log"
        ),
        _ => format!(
            "`{file}` cannot be opened: check that nothing else uses it and that the disk is sound and has room"
        ),
    };
    Error::new(ErrorKind::Unavailable, message)
        .blame(Blame::Operator)
        .because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::call::Json;
    use crate::log::sqlite::SqliteLog;
    use crate::log::{Append, BLOB_FROM, Body, EventLog, NewEvent};

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    fn refusal(state_dir: &Path) -> Error {
        let before = std::fs::read(path(state_dir)).unwrap();
        let error = SqliteLog::open(state_dir).unwrap_err();
        assert_eq!(std::fs::read(path(state_dir)).unwrap(), before, "the file is as it was");
        assert_eq!(error.blame, Blame::Operator);
        error
    }

    #[tokio::test]
    async fn the_state_directory_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("new").join("state");
        let log = SqliteLog::open(&state_dir).unwrap();
        let body = Body::Json(Json::of(&"x".repeat(BLOB_FROM)).unwrap());
        let event = NewEvent {
            kind: "test.event",
            call: None,
            body,
            record: None,
        };
        let ticket = log.append(Append::one("r", event)).await.unwrap();
        ticket.durable().await.unwrap();
        assert_eq!(mode(&state_dir), 0o700);
        assert_eq!(mode(&state_dir.join("blobs")), 0o700);
        for file in ["log.db", "log.db-wal", "log.db-shm"] {
            assert_eq!(mode(&state_dir.join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn every_commit_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let connection = connect(dir.path()).unwrap();
        let read = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i64>(0));
        assert_eq!(read("synchronous").unwrap(), 2);
        let mode: String = connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal");
        let without = prepare(&Connection::open_in_memory().unwrap(), true).unwrap_err();
        assert_eq!(
            without.to_string(),
            "this file system has no shared memory for a write-ahead log"
        );
    }

    #[test]
    fn a_newer_schema_is_refused_and_says_which_side_to_upgrade() {
        let dir = tempfile::tempdir().unwrap();
        connect(dir.path())
            .unwrap()
            .execute_batch("PRAGMA user_version = 2")
            .unwrap();
        assert_eq!(
            refusal(dir.path()).message,
            format!(
                "`{}` was written by a newer waypost (schema 2, this one reads up to 1): upgrade this waypost, or give \
                 it another state directory",
                path(dir.path()).display()
            )
        );
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            path(dir.path()),
            "not a database, but long enough to have a header. ".repeat(100),
        )
        .unwrap();
        let damaged = format!(
            "`{}` is damaged and was left as it is: restore it from a backup, or move it away to start an empty log",
            path(dir.path()).display()
        );
        assert_eq!(refusal(dir.path()).message, damaged);

        let dir = tempfile::tempdir().unwrap();
        drop(connect(dir.path()).unwrap());
        let mut bytes = std::fs::read(path(dir.path())).unwrap();
        bytes[100..].fill(0xff);
        std::fs::write(path(dir.path()), bytes).unwrap();
        assert!(refusal(dir.path()).message.contains("is damaged and was left as it is"));
    }

    #[test]
    fn somebody_elses_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Connection::open(path(dir.path()))
            .unwrap()
            .execute_batch("CREATE TABLE recipe (name TEXT)")
            .unwrap();
        let message = refusal(dir.path()).message;
        assert!(
            message.ends_with(
                "is a database, but not an event log, and was left as it is: give waypost another state \
             directory"
            ),
            "{message}"
        );
    }

    #[test]
    fn a_state_directory_that_is_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        std::fs::write(&state_dir, "").unwrap();
        let message = SqliteLog::open(&state_dir).unwrap_err().message;
        assert!(
            message.ends_with("cannot be used: it must be a folder that this user may write to, with room"),
            "{message}"
        );
    }
}
