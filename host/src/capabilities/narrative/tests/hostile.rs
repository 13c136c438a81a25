//! Archives, bundles and trees that nobody means well with.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

use super::*;
use crate::error::Blame;

/// One entry of an archive that a test makes, byte for byte.
struct Member<'a>(EntryType, &'a [u8], &'a str, &'a [u8]);

fn file<'a>(name: &'a str, content: &'a [u8]) -> Member<'a> {
    Member(EntryType::Regular, name.as_bytes(), "", content)
}

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for Member(kind, name, link, content) in members {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(*kind);
        header.set_link_name_literal(link).unwrap();
        header.set_size(content.len() as u64);
        header.set_mode(0o4777);
        header.set_cksum();
        archive.extend_from_slice(header.as_bytes());
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

const SHAPE: &str = "; it must be a .tar.gz of the two regular files `git.bundle` and `narrative.json`";

/// Everything below a folder, by its path and size.
fn names(folder: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.push(format!(
                "{} {}",
                path.display(),
                if metadata.is_dir() { 0 } else { metadata.len() }
            ));
        }
    }
    found.sort();
    found
}

#[test]
fn an_archive_holds_the_two_files_and_nothing_else() {
    let house = House::with(config::Narrative {
        bundle: 4 << 20,
        ..Default::default()
    });
    let room = Room::new("p", &[("a", "1")]);
    house.snapshot(&room);
    let (bundle, story) = (file("git.bundle", b"x"), file("narrative.json", b"{}"));
    let with = |other: Member<'_>| gz(&tar(&[file("git.bundle", b"x"), file("narrative.json", b"{}"), other]));
    let alone = |kind: EntryType, name: &str| {
        gz(&tar(&[
            Member(kind, name.as_bytes(), "/etc/passwd", b""),
            file("narrative.json", b"{}"),
        ]))
    };
    let torn = "is torn or of another format";
    let other = "holds another member, or one of them twice";
    let not_a_file = "holds something that is not a regular file";
    let zeros = vec![0; (4 << 20) + 1];
    let deep = vec![b'['; 100_000];
    let mut flipped = gz(&tar(&[file("git.bundle", b"x"), file("narrative.json", b"{}")]));
    let end = flipped.len() - 6;
    flipped[end] ^= 0xff;
    let mut giant = tar(&[file("git.bundle", b"x")]);
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&giant[..512]);
    header.set_size(8 << 30);
    header.set_cksum();
    giant[..512].copy_from_slice(header.as_bytes());
    let long = tar(&[
        Member(EntryType::GNULongName, b"././@LongLink", "", b"../../evil\0"),
        file("git.bundle", b"x"),
    ]);
    let pax = |record: &'static [u8]| {
        gz(&tar(&[
            Member(EntryType::XHeader, b"pax", "", record),
            file("git.bundle", b"x"),
            file("narrative.json", b"{}"),
        ]))
    };
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        ("nothing", Vec::new(), torn.into()),
        ("no archive", b"hello, this is text".to_vec(), torn.into()),
        ("a plain tar", tar(&[bundle, story]), torn.into()),
        ("an empty tar", gz(&tar(&[])), "lacks a member".into()),
        (
            "only one",
            gz(&tar(&[file("git.bundle", b"x")])),
            "lacks a member".into(),
        ),
        (
            "only the other",
            gz(&tar(&[file("narrative.json", b"{}")])),
            "lacks a member".into(),
        ),
        ("a path that climbs", with(file("../evil", b"x")), other.into()),
        (
            "a path that climbs late",
            with(file("git.bundle/../../evil", b"x")),
            other.into(),
        ),
        ("an absolute path", with(file("/tmp/evil", b"x")), other.into()),
        ("another file", with(file("extra", b"x")), other.into()),
        ("a NUL in a name", with(file("git.bundle\0.sh", b"x")), other.into()),
        ("another case", with(file("Git.Bundle", b"x")), other.into()),
        ("one twice", with(file("git.bundle", b"y")), other.into()),
        ("the other twice", with(file("narrative.json", b"[]")), other.into()),
        ("a dot before", gz(&tar(&[file("./git.bundle", b"x")])), other.into()),
        ("an empty name", with(file("", b"x")), other.into()),
        (
            "a symbolic link",
            alone(EntryType::Symlink, "git.bundle"),
            not_a_file.into(),
        ),
        ("a hard link", alone(EntryType::Link, "git.bundle"), not_a_file.into()),
        ("a folder", alone(EntryType::Directory, "git.bundle"), not_a_file.into()),
        ("a pipe", alone(EntryType::Fifo, "git.bundle"), not_a_file.into()),
        ("a device", alone(EntryType::Char, "git.bundle"), not_a_file.into()),
        (
            "a block device",
            alone(EntryType::Block, "git.bundle"),
            not_a_file.into(),
        ),
        (
            "a sparse file",
            alone(EntryType::GNUSparse, "git.bundle"),
            not_a_file.into(),
        ),
        (
            "a contiguous file",
            alone(EntryType::Continuous, "git.bundle"),
            not_a_file.into(),
        ),
        (
            "an unknown sort",
            alone(EntryType::new(b'Z'), "git.bundle"),
            not_a_file.into(),
        ),
        ("a long name", gz(&long), not_a_file.into()),
        (
            "another path beside",
            pax(b"16 path=../evil\n"),
            "has an extended header that changes a member".into(),
        ),
        (
            "another size beside",
            pax(b"11 size=99\n"),
            "has an extended header that changes a member".into(),
        ),
        (
            "a broken record",
            pax(b"99 x\n"),
            "has an extended header that changes a member".into(),
        ),
        ("a wrong checksum", flipped, torn.into()),
        (
            "a bomb",
            gz(&tar(&[file("git.bundle", &zeros[1..])])),
            "unpacks to more than 100 times its size".into(),
        ),
        (
            "a bomb behind the end",
            gz(&[
                tar(&[file("git.bundle", b"x"), file("narrative.json", b"{}")]),
                zeros.clone(),
            ]
            .concat()),
            "unpacks to more than 100 times its size".into(),
        ),
    ];
    let text = |case: &str, archive: &[u8]| {
        let path = house.state.path().join("upload.tar.gz");
        fs::write(&path, archive).unwrap();
        let before = (names(house.state.path()), room.all());
        let error = house.refused(&room, "importUnifiedBundle", json!({ "bundlePath": path }));
        assert_eq!((names(house.state.path()), room.all()), before, "{case}");
        error
    };
    let wrong: Vec<(&str, String)> = cases
        .into_iter()
        .map(|(case, archive, expected)| (case, text(case, &archive), expected))
        .filter(|(_, told, expected)| *told != format!("invalid: the archive of the bundle {expected}{SHAPE}"))
        .map(|(case, told, _)| (case, told))
        .collect();
    assert_eq!(wrong, [], "each is told for what it is");
    let large = "limit: the bundle has more than 4194304 bytes, which is the limit `narrative.bundle`; raise it";
    assert_eq!(
        text("a member over the limit", &gz(&tar(&[file("git.bundle", &zeros)]))),
        large
    );
    assert_eq!(text("a stated size over the limit", &gz(&giant)), large);
    assert_eq!(text("an archive over the limit", &zeros), large);
    for story in [&b""[..], b"{", b"nonsense", &deep] {
        let archive = gz(&tar(&[file("git.bundle", b"x"), file("narrative.json", story)]));
        assert_eq!(
            text("no story", &archive),
            "invalid: `narrative.json` of the bundle is not JSON"
        );
    }
    for bundle in [
        &b""[..],
        b"x",
        b"# v2 git bundle\n",
        b"# v2 git bundle\nzzzz refs/heads/x\n\nPACK",
    ] {
        let archive = gz(&tar(&[file("git.bundle", bundle), file("narrative.json", b"{}")]));
        let error = text("no bundle", &archive);
        assert!(error.starts_with("invalid: `git.bundle` "), "{error}");
    }
}

#[test]
fn only_a_regular_file_is_opened_and_all_else_looks_the_same() {
    let house = House::new();
    let room = Room::new("p", &[]);
    let at = |name: &str| room.at(name).to_str().unwrap().to_owned();
    symlink("/etc/passwd", room.at("link")).unwrap();
    fs::create_dir(room.at("folder")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        room.at("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let paths = [
        at("link"),
        at("folder"),
        at("pipe"),
        at("missing"),
        "relative".into(),
        String::new(),
        "/dev/zero".into(),
        "/a\0b".into(),
    ];
    for path in paths {
        let error = house.refused(&room, "importUnifiedBundle", json!({ "bundlePath": path }));
        let text = "not-found: `bundlePath` names no file that may be imported; name a regular file of the hub's user by \
                    its absolute path, not a link";
        assert_eq!(error, text, "{path}");
    }
}

fn unhex(id: &str) -> Vec<u8> {
    (0..id.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap())
        .collect()
}

/// Writes a tree as git itself never would, and a commit of it.
fn commit(repository: &Path, entries: &[(&str, &[u8], &str)]) -> String {
    let mut tree = Vec::new();
    for (mode, name, id) in entries {
        tree.extend_from_slice(mode.as_bytes());
        tree.push(b' ');
        tree.extend_from_slice(name);
        tree.push(0);
        tree.extend(unhex(id));
    }
    let args = ["hash-object", "-t", "tree", "-w", "--literally", "--stdin"];
    let tree = real_git(repository, &args, &tree);
    real_git(repository, &["commit-tree", &tree, "-m", "x"], b"")
}

#[test]
fn a_hostile_tree_is_refused_whole() {
    let house = House::new();
    let room = Room::new("p", &[("a", "1"), ("kept/.git/x", "k"), (".codebolt/rules.json", "r")]);
    symlink("/etc", room.at("out")).unwrap();
    house.snapshot(&room);
    let repository = house.repository(&room);
    let blob = |content: &str| real_git(&repository, &["hash-object", "-w", "--stdin"], content.as_bytes());
    let (evil, good) = (blob("evil"), blob("good"));
    let folder = |name: &[u8], id: &str| {
        let commit = commit(&repository, &[("100644", name, id)]);
        real_git(&repository, &["rev-parse", &format!("{commit}^{{tree}}")], b"")
    };
    let (inner, climbing, of_git) = (folder(b"x", &evil), folder(b"..", &evil), folder(b".git", &evil));
    let link = |target: &str| blob(target);
    let long = "l".repeat(300);
    let is_path = "which is not a path inside a workspace";
    let is_git = "which belongs to git or to the hub";
    let leads_out = "a link that leads out";
    let (absolute, up, round) = (link("/etc/passwd"), link("../x"), link("d/../../x"));
    let (empty, huge, newline) = (link(""), link(&"x/".repeat(3000)), link("a\nb"));
    let missing = "0123456789012345678901234567890123456789";
    let cases: Vec<(&str, &[u8], &str, &str)> = vec![
        ("100644", b"..", &evil, is_path),
        ("100644", b"../evil", &evil, is_path),
        ("100644", b"/tmp/evil", &evil, is_path),
        ("100644", b"a/../../evil", &evil, is_path),
        ("100644", b".", &evil, is_path),
        ("100644", b"a\\b", &evil, is_path),
        ("100644", b"a\nb", &evil, is_path),
        ("100644", b"bad\xff", &evil, "a path that is not UTF-8"),
        ("100644", long.as_bytes(), &evil, is_path),
        ("40000", b"..", &inner, is_path),
        ("40000", b"d", &climbing, is_path),
        ("40000", b".git", &inner, is_git),
        ("40000", b".GiT", &inner, is_git),
        ("100644", b".git", &evil, is_git),
        ("120000", b".git", &up, is_git),
        ("40000", b".waypost", &inner, is_git),
        ("100644", b".waypost-tmp-1", &evil, is_git),
        ("100644", b"gone", missing, "whose content is missing"),
        ("120000", b"l", &absolute, leads_out),
        ("120000", b"l", &up, leads_out),
        ("120000", b"l", &round, leads_out),
        ("120000", b"l", &empty, leads_out),
        ("120000", b"l", &newline, leads_out),
        ("120000", b"l", &huge, "a link with a target that is too long"),
        ("100644", b"good", &evil, "twice"),
        ("40000", b"good", &inner, "as a file and as a folder"),
        ("40000", b"kept", &of_git, is_git),
        ("100644", b"kept", &evil, "`kept/.git` stands in its way"),
        ("40000", b"out", &inner, "`out` stands in its way"),
        ("100644", b"out", &evil, "`out` stands in its way"),
    ];
    let before = room.all();
    for (mode, name, id, expected) in cases {
        let id = commit(&repository, &[("100644", b"good", &good), (mode, name, id)]);
        real_git(
            &repository,
            &["update-ref", &format!("{}{id}", repository::SNAPSHOTS), &id],
            b"",
        );
        let error = house
            .try_ask(&room, "checkoutSnapshot", json!({ "snapshotId": id }))
            .unwrap_err();
        let name = String::from_utf8_lossy(name).into_owned();
        assert!(error.message.contains(expected), "{mode} {name}: {error}");
        assert_eq!(error.blame, Blame::Caller, "{name}");
        assert_eq!(room.all(), before, "{name}");
    }
    // What names the rules or a submodule is left alone; what another system would take for a device is a plain file.
    let rules = folder(b"rules.json", &evil);
    let id = commit(
        &repository,
        &[
            ("40000", b".codebolt", &rules),
            ("100644", b"CON", &good),
            ("160000", b"sub", missing),
            ("100644", b"waypost.toml", &evil),
        ],
    );
    real_git(
        &repository,
        &["update-ref", &format!("{}{id}", repository::SNAPSHOTS), &id],
        b"",
    );
    let reply = house.checkout(&room, &id);
    let skipped = json!([
        {"path": ".codebolt/rules.json", "reason": "it is protected"},
        {"path": "sub", "reason": "it is a submodule"},
        {"path": "waypost.toml", "reason": "it is protected"},
    ]);
    assert_eq!(reply["skipped"], skipped);
    let mut expected = before;
    expected.remove("a");
    expected.insert("CON".into(), "false good".into());
    assert_eq!(room.all(), expected);
}

#[test]
fn git_refuses_a_bundle_of_hostile_objects() {
    let house = House::new();
    let (source, room) = (Room::new("source", &[("a", "1")]), Room::new("p", &[("a", "1")]));
    house.snapshot(&source);
    let repository = house.repository(&source);
    let evil = real_git(&repository, &["hash-object", "-w", "--stdin"], b"evil");
    let id = commit(&repository, &[("100644", b".git", &evil)]);
    real_git(&repository, &["update-ref", "refs/heads/x", &id], b"");
    let bundle = source.at("evil.bundle");
    real_git(
        &repository,
        &["bundle", "create", "-q", bundle.to_str().unwrap(), "refs/heads/x"],
        b"",
    );
    let upload = source.at("upload.tar.gz");
    let bytes = fs::read(bundle).unwrap();
    fs::write(
        &upload,
        gz(&tar(&[file("narrative.json", b"[1]"), file("git.bundle", &bytes)])),
    )
    .unwrap();
    let text = "invalid: git refused the objects of `git.bundle`; they are broken or hostile, and nothing was imported";
    assert_eq!(
        house.refused(&room, "importUnifiedBundle", json!({ "bundlePath": upload })),
        text
    );
    let refs = real_git(&house.repository(&room), &["for-each-ref"], b"");
    assert_eq!(refs, "");

    // A story of another shape is no reason to refuse good objects; a name that no hub writes is.
    let good = commit(&repository, &[("100644", b"fine", &evil)]);
    for (name, ok) in [("refs/heads/good", true), ("refs/heads/go{od", false)] {
        real_git(&repository, &["update-ref", name, &good], b"");
        let bundle = source.at(&format!("{ok}.bundle"));
        real_git(
            &repository,
            &["bundle", "create", "-q", bundle.to_str().unwrap(), name],
            b"",
        );
        let bytes = fs::read(bundle).unwrap();
        fs::write(
            &upload,
            gz(&tar(&[file("narrative.json", b"[1]"), file("git.bundle", &bytes)])),
        )
        .unwrap();
        match house.try_ask(&room, "importUnifiedBundle", json!({ "bundlePath": upload })) {
            Ok(reply) => {
                assert_eq!(reply["imported_refs"], json!([[name, good]]));
                assert_eq!(
                    (&reply["narrative_imported"], &reply["snapshot_ids"]),
                    (&json!(false), &json!([good]))
                );
            }
            Err(error) => assert!(
                !ok && error.message.contains("names a reference `refs/heads/go{od`"),
                "{error}"
            ),
        }
    }
}
