//! Folders of the hub for environments inside it. For providers; needs the grant `workspace`.
//!
//! The hub owns the copying, comparing and merging: a provider only decides that there is a folder, and when it goes.

use crate::Result;
use crate::bindings::imports::waypost::workspace::folders;

/// Makes the folder of an environment with a copy of the project, and answers its name. Called again for the same
/// environment, it answers the same folder and changes nothing.
pub fn create(environment: &str) -> Result<String> {
    folders::create(environment)
}

/// Whether the folder is still there.
pub fn exists(folder: &str) -> Result<bool> {
    folders::exists(folder)
}

/// Removes the folder and all in it; removing what is not there succeeds.
pub fn remove(folder: &str) -> Result<()> {
    folders::remove(folder)
}
