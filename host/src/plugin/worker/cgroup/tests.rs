use super::*;

const STATE: &str = "/state";

fn bounds(cpu: Option<u64>) -> Bounds {
    Bounds {
        memory: 1 << 20,
        cpu,
        behind: false,
    }
}

/// A folder that looks like the control groups of a machine, for as long as the test lives.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// A file with what the kernel would have in it.
    fn file(self, path: &str, text: &str) -> Self {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
        self
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The line of `mountinfo` for a folder of it.
    fn mount(&self, folder: &str, kind: &str) -> String {
        format!(
            "35 31 0:32 / {} rw,relatime shared:5 - {kind}\n",
            self.path(folder).display()
        )
    }

    fn cgroups(&self, mounts: &str, own: &str) -> Cgroups {
        Cgroups::among(mounts, own, Path::new(STATE))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let folders = entries.filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// A group as the kernel has it is empty when it holds no process; here its files are in the way.
fn empty(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
}

#[test]
fn version_1_bounds_each_thing_in_its_own_tree() {
    let machine = Machine::new()
        .file("memory/box/tasks", "")
        .file("cpu/tasks", "")
        .file("pids/tasks", "");
    let mounts = [
        ("memory", "cgroup cgroup rw,memory"),
        ("cpu", "cgroup cgroup rw,cpu"),
        ("pids", "cgroup x rw,pids"),
    ]
    .map(|(folder, kind)| machine.mount(folder, kind))
    .concat();
    let cgroups = machine.cgroups(&mounts, "9:name=systemd:/\n8:pids:/\n4:memory:/box\n1:cpu:/\n0::/\n");
    let held = cgroups.hold(7, &bounds(Some(150)));
    let both = Some(Version::One);
    assert_eq!(
        held.groups(),
        Groups {
            memory: both,
            cpu: both
        }
    );
    let name = format!("{}0-7", cgroups.prefix);
    let slow = machine.path("cpu").join(&name).join("cpu.shares");
    assert!(!slow.exists());
    held.behind().unwrap().put().unwrap();
    assert_eq!(fs::read_to_string(&slow).unwrap(), "128");
    for (file, text) in [
        ("memory/box/NAME/memory.limit_in_bytes", "1048576"),
        ("memory/box/NAME/memory.memsw.limit_in_bytes", "1048576"),
        ("memory/box/NAME/cgroup.procs", "7"),
        ("cpu/NAME/cpu.cfs_period_us", "100000"),
        ("cpu/NAME/cpu.cfs_quota_us", "150000"),
        ("cpu/NAME/cgroup.procs", "7"),
        ("pids/NAME/pids.max", "256"),
    ] {
        assert_eq!(machine.read(&file.replace("NAME", &name)), text, "{file}");
    }
    for folder in ["memory/box", "cpu", "pids"] {
        empty(&machine.path(folder).join(&name));
    }
    drop(held);
    for folder in ["memory/box", "cpu", "pids"] {
        assert!(names(&machine.path(folder)).is_empty(), "{folder}");
    }
}

#[test]
fn what_is_not_bounded_in_processor_time_has_a_group_for_it_only_when_it_is_behind() {
    let apart = Machine::new().file("memory/tasks", "").file("cpu/tasks", "");
    let apart_mounts = ["memory", "cpu"].map(|name| apart.mount(name, &format!("cgroup cgroup rw,{name}")));
    let together = Machine::new().file("both/tasks", "");
    let together_mounts = [together.mount("both", "cgroup cgroup rw,cpu,memory"), String::new()];
    for (machine, mounts, own, tree, file, text) in [
        (
            &apart,
            apart_mounts,
            "4:memory:/\n1:cpu:/\n",
            "cpu",
            "cgroup.procs",
            "7",
        ),
        (
            &together,
            together_mounts,
            "4:cpu,memory:/\n",
            "both",
            "cpu.shares",
            "128",
        ),
    ] {
        let cgroups = machine.cgroups(&mounts.concat(), own);
        let held = cgroups.hold(7, &bounds(None));
        let name = format!("{}0-7", cgroups.prefix);
        let (folder, file) = (
            machine.path(tree).join(&name),
            machine.path(tree).join(&name).join(file),
        );
        assert_eq!((held.groups().memory, held.groups().cpu), (Some(Version::One), None));
        assert!(!file.exists(), "{tree}");
        held.behind().unwrap().put().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert_eq!(fs::read_to_string(folder.join("cpu.shares")).unwrap(), "128");
        let bounds = Bounds {
            behind: true,
            ..bounds(None)
        };
        let compiler = cgroups.hold(8, &bounds);
        let said = machine.read(&format!("{tree}/{}1-8/cgroup.procs", cgroups.prefix));
        assert_eq!(said, "8", "one that is behind from the start");
        for folder in [folder.clone(), machine.path("memory").join(&name)] {
            if folder.exists() {
                empty(&folder);
            }
        }
        drop((held, compiler));
        assert!(!folder.exists(), "{tree}");
    }
}

#[test]
fn version_2_bounds_what_is_shared_out_to_the_hub() {
    let machine = Machine::new()
        .file("a/cgroup.controllers", "cpu memory pids\n")
        .file("a/cgroup.subtree_control", "memory pids cpu\n");
    let cgroups = machine.cgroups(&machine.mount("", "cgroup2 cgroup2 rw"), "0::/a\n");
    let held = cgroups.hold(7, &bounds(None));
    assert_eq!(
        held.groups(),
        Groups {
            memory: Some(Version::Two),
            cpu: None
        }
    );
    let group = format!("a/{}0-7", cgroups.prefix);
    for (file, text) in [
        ("memory.max", "1048576"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("pids.max", "256"),
        ("cgroup.procs", "7"),
    ] {
        assert_eq!(machine.read(&format!("{group}/{file}")), text, "{file}");
    }
    assert!(!machine.path(&group).join("cpu.max").exists());
    assert_eq!(held.behind(), None);
    let held = cgroups.hold(8, &bounds(Some(50)));
    assert_eq!(held.groups().cpu, Some(Version::Two));
    held.behind().unwrap().put().unwrap();
    assert_eq!(machine.read(&format!("a/{}1-8/cpu.weight", cgroups.prefix)), "12");
    assert_eq!(
        machine.read(&format!("a/{}1-8/cpu.max", cgroups.prefix)),
        "50000 100000"
    );
    drop(held);
}

#[test]
fn a_hub_that_is_alone_in_its_group_of_version_2_makes_room_below_it() {
    let me = std::process::id().to_string();
    let machine = Machine::new()
        .file("a/cgroup.controllers", "memory\n")
        .file("a/cgroup.procs", &format!("{me}\n"))
        .file("a/cgroup.subtree_control", "\n");
    let mount = machine.mount("", "cgroup2 cgroup2 rw");
    let held = machine.cgroups(&mount, "0::/a\n").hold(7, &bounds(None));
    assert_eq!(
        held.groups(),
        Groups {
            memory: Some(Version::Two),
            cpu: None
        }
    );
    assert_eq!(machine.read("a/waypost-hub/cgroup.procs"), me);
    assert_eq!(machine.read("a/cgroup.subtree_control"), "+memory");
    // From there its groups are beside it.
    let machine = machine
        .file("a/waypost-hub/cgroup.controllers", "memory\n")
        .file("a/cgroup.subtree_control", "memory\n");
    let cgroups = machine.cgroups(&mount, "0::/a/waypost-hub\n");
    let held = cgroups.hold(8, &bounds(None));
    assert_eq!(machine.read(&format!("a/{}0-8/cgroup.procs", cgroups.prefix)), "8");
    drop(held);
}

#[test]
fn each_thing_is_bounded_once_by_the_newer_version() {
    let machine = Machine::new().file("two/cgroup.controllers", "memory\n");
    let mounts = [
        machine.mount("one", "cgroup cgroup rw,cpu,memory"),
        machine.mount("two", "cgroup2 x rw"),
    ]
    .concat();
    let found = trees(&mounts, "2:cpu,memory:/\n0::/\n");
    let found: Vec<_> = found.iter().map(|tree| (tree.version, tree.bounds.clone())).collect();
    assert_eq!(
        found,
        [(Version::Two, vec![What::Memory]), (Version::One, vec![What::Cpu])]
    );
}

#[test]
fn where_no_group_can_be_made_nothing_is_bounded_and_nothing_is_left() {
    let machine = Machine::new()
        .file("memory", "a file")
        .file("two/cgroup.procs", "1\n2\n");
    let file = machine.mount("memory", "cgroup cgroup rw,memory");
    let missing = machine.mount("nowhere", "cgroup cgroup rw,memory");
    let unshared = machine.mount("two", "cgroup2 cgroup2 rw");
    for (mounts, own) in [
        ("", ""),
        ("nonsense\n - \n", "nonsense\n1:\n"),
        (&*file, "4:memory:/\n"),
        (&*missing, "4:memory:/\n"),
        (&*file, "4:memory:/../..\n"),
        (&*file, "0::/\n"),
        (&*unshared, "0::/\n"),
    ] {
        let cgroups = machine.cgroups(mounts, own);
        cgroups.sweep();
        let held = cgroups.hold(7, &bounds(Some(100)));
        assert_eq!(held.groups(), Groups::default(), "{mounts} {own}");
        assert!(!held.out_of_memory());
    }
    assert!(names(&machine.path("two")).is_empty());
    // A mount that cannot be written to.
    let cgroups = machine.cgroups("35 31 0:32 / /proc/self rw - cgroup cgroup ro,memory", "4:memory:/\n");
    assert_eq!(cgroups.hold(7, &bounds(None)).groups(), Groups::default());
}

#[test]
fn what_a_dead_hub_left_goes_and_what_others_have_stays() {
    let machine = Machine::new().file("memory/tasks", "");
    let cgroups = machine.cgroups(&machine.mount("memory", "cgroup cgroup rw,memory"), "4:memory:/\n");
    let mine = format!("{}3-77", cgroups.prefix);
    for name in [&*mine, "waypost-0123456789abcdef-3-77", "other"] {
        fs::create_dir(machine.path("memory").join(name)).unwrap();
    }
    cgroups.sweep();
    let mut left = names(&machine.path("memory"));
    left.sort();
    assert_eq!(left, ["other", "waypost-0123456789abcdef-3-77"]);
}

#[test]
fn a_kill_for_memory_is_read_from_either_version() {
    let machine = Machine::new()
        .file(
            "one/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        )
        .file("two/memory.events", "max 9\noom 1\noom_kill 1\n")
        .file("none/memory.events", "max 9\noom 0\noom_kill 0\n");
    for (version, folder, killed) in [
        (Version::One, "one", true),
        (Version::Two, "two", true),
        (Version::Two, "none", false),
    ] {
        let mut held = Held::default();
        held.groups.push((version, What::Memory, machine.path(folder)));
        assert_eq!(held.out_of_memory(), killed, "{folder}");
    }
}
