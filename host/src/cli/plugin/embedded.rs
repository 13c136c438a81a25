//! The files of the repository that this binary carries: the contract, the SDKs, and the templates of new plugins.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// A file: its path below the folder that its list stands for, with `/`, and what is in it.
pub(super) type File = (&'static str, &'static [u8]);

/// The files below a folder of a list, by their path from there.
pub(super) fn below(list: &'static [File], folder: &str) -> impl Iterator<Item = File> {
    list.iter()
        .filter_map(move |(path, bytes)| path.strip_prefix(folder).map(|rest| (rest, *bytes)))
}
