//! What a task finds in its sandbox: mounts, files, hooks, its user, and what
//! happens when it uses more memory than it may. Ways out are `escape`'s.

mod support;

use potluck_helper::{
    AgentMessage, ExitReason, TaskEnd,
    description::{
        Hook, Isolation, MemoryWatch, Mounted, MountedFrom, Profile, UserIds, WrittenFile,
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use support::{Agent, Task, is_root, skip, users_may_have_namespaces, wait_for};

/// A memory group of cgroup v1 as the agent makes it, removed again.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn make(limit_bytes: u64, name: &str) -> Option<MemoryGroup> {
        let root = Path::new("/sys/fs/cgroup/memory");
        let path = root.join(format!("potluck-helper-test-{}-{name}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = MemoryGroup(path);
        let put = |file: &str, text: String| fs::write(group.0.join(file), text);
        put("memory.limit_in_bytes", limit_bytes.to_string()).ok()?;
        put("memory.oom_control", "1".into()).ok()?;
        Some(group)
    }

    fn join(&self, task: &mut Task, limit_bytes: u64) {
        task.description.cgroup_procs = vec![self.0.join("cgroup.procs")];
        task.description.memory_bytes = Some(limit_bytes);
        task.description.memory_watch = Some(MemoryWatch {
            group: self.0.clone(),
            limit_bytes,
        });
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        wait_for("an empty control group", || fs::remove_dir(&self.0).ok());
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn a_task_out_of_memory_is_stopped_in_order_and_says_who_used_it() {
    if !Path::new("/usr/bin/perl").exists() {
        return skip("needs perl, to use memory");
    }
    // Anonymous memory; files in memory; read(2) into fresh memory; at once.
    let cases = [
        (
            "anonymous",
            "while (1) { push @all, 'x' x 1_000_000; select(undef, undef, undef, 0.002) }",
        ),
        (
            "files",
            "open F, '>', '/tmp/f'; while (1) { syswrite F, 'x' x 262_144; select(undef, undef, undef, 0.002) }",
        ),
        (
            "read",
            "open Z, '<', '/dev/zero'; while (1) { my $b; sysread Z, $b, 1_000_000; push @all, $b; select(undef, undef, undef, 0.002) }",
        ),
        ("at-once", "my $b = 'x' x 500_000_000; sleep 1000"),
    ];
    for (name, body) in cases {
        let limit = 64 * MIB;
        let Some(group) = MemoryGroup::make(limit, name) else {
            return skip("needs the memory controller of cgroup v1");
        };
        let script = format!(
            "exec perl -e '$SIG{{TERM}} = sub {{ print qq(in order\\n); exit 0 }}; $| = 1; {}'",
            body.replace('\'', "\"")
        );
        let mut task = Task::script(&script);
        group.join(&mut task, limit);
        task.description.stop.grace_ms = 2_000;
        let mut agent = Agent::listen(&task, 1);
        task.start();
        agent.running();
        let exit = agent.next_exit();
        assert_eq!(exit.reason, ExitReason::MemoryLimit, "{name}: {exit:?}");
        let note = exit.note.clone().unwrap();
        assert!(note.contains("limit 64 MiB"), "{name}: {note}");
        assert!(note.contains("perl"), "{name}: {note}");
        println!("{name}: {exit:?}, {:?}", task.texts());
        // What needs far more than there is has no room to end in.
        if name != "at-once" {
            assert_eq!((exit.code, exit.signal), (Some(0), None), "{name}");
            assert!(task.texts().iter().any(|line| line == "in order"), "{name}");
        }
        agent.send(&AgentMessage::Ack);
        task.helper_code();
    }
}

#[test]
fn a_cache_that_fills_the_limit_is_no_reason_to_stop() {
    let limit = 32 * MIB;
    let Some(group) = MemoryGroup::make(limit, "cache") else {
        return skip("needs the memory controller of cgroup v1");
    };
    let script = "dd if=/dev/zero of=big bs=1048576 count=96 2>/dev/null; \
                  cat big > /dev/null; rm big; exit 6";
    let mut task = Task::script(script);
    group.join(&mut task, limit);
    let mut agent = Agent::listen(&task, 1);
    task.start();
    agent.running();
    let exit = agent.next_exit();
    assert_eq!((exit.code, exit.reason), (Some(6), ExitReason::Exited));
}

#[test]
fn commands_run_before_and_after_the_task_in_its_sandbox() {
    let hook = |command: &str| Hook {
        command: "/bin/sh".into(),
        args: vec!["-c".into(), command.into()],
        timeout_ms: 30_000,
    };
    let mut task = Task::script("echo task $(cat /task/made) $(cat conf/app.txt); exit 4");
    task.description.setup = vec![
        hook("echo first; pwd; echo ready > made"),
        hook("echo second"),
    ];
    task.description.teardown = vec![hook("echo after"), hook("exit 9"), hook("echo last")];
    task.description.files = vec![WrittenFile {
        path: "conf/app.txt".into(),
        contents: "written".into(),
        mode: 0o600,
    }];
    task.start();
    let exit = task.recorded_exit();
    assert_eq!((exit.code, exit.reason), (Some(4), ExitReason::Exited));
    let wanted = [
        "first",
        "/task",
        "second",
        "task ready written",
        "after",
        "last",
    ];
    assert_eq!(task.texts(), wanted);
}

#[test]
fn a_set_up_that_fails_or_takes_too_long_is_the_end_and_says_which() {
    let hook = |command: &str, timeout_ms| Hook {
        command: "/bin/sh".into(),
        args: vec!["-c".into(), command.into()],
        timeout_ms,
    };
    for (setup, wanted) in [
        (
            vec![hook("exit 3", 30_000)],
            "set-up command 1 (\"/bin/sh\") returned 3",
        ),
        (
            vec![hook("true", 30_000), hook("kill -9 $$", 30_000)],
            "set-up command 2 (\"/bin/sh\") was ended by signal 9",
        ),
        (
            vec![hook("sleep 1000", 100)],
            "set-up command 1 (\"/bin/sh\") took too long",
        ),
    ] {
        let mut task = Task::script("echo ran");
        task.description.setup = setup;
        task.start();
        let TaskEnd::NotStarted { why, .. } = wait_for("the record", || task.record()).end else {
            panic!("it ran");
        };
        assert_eq!(why, wanted);
        assert!(!task.texts().contains(&"ran".to_owned()));
    }
}

#[test]
fn a_tear_down_has_its_time_and_no_more() {
    let mut task = Task::script("exit 0");
    task.description.teardown = vec![Hook {
        command: "/bin/sleep".into(),
        args: vec!["1000".into()],
        timeout_ms: 100,
    }];
    task.start();
    assert_eq!(task.recorded_exit().code, Some(0));
}

#[test]
fn mounts_are_where_they_should_be_and_as_they_should_be() {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("data"), "from the host\n").unwrap();
    fs::write(host.path().join("alone"), "a file\n").unwrap();
    let script = "cat /mnt/rw/data /deep/er/file; echo new > /mnt/rw/new; \
                  (echo no > /mnt/ro/new) 2>/dev/null || echo refused; \
                  stat -f -c %T /mnt/mem; echo m > /mnt/mem/x && echo kept";
    let mut task = Task::script(script);
    let mount = |at: &str, from, read_only| Mounted {
        at: at.into(),
        from,
        read_only,
    };
    let of_host = || MountedFrom::Host(host.path().canonicalize().unwrap());
    task.description.mounts = vec![
        mount("/mnt/rw", of_host(), false),
        mount("/mnt/ro", of_host(), true),
        mount("/mnt/mem", MountedFrom::Memory { bytes: 1 << 20 }, false),
        mount(
            "/deep/er/file",
            MountedFrom::Host(host.path().join("alone")),
            true,
        ),
    ];
    task.start();
    let exit = task.recorded_exit();
    let wanted = ["from the host", "a file", "refused", "tmpfs", "kept"];
    assert_eq!(task.texts(), wanted, "{exit:?}");
    assert_eq!(
        fs::read_to_string(host.path().join("new")).unwrap(),
        "new\n"
    );

    let mut task = Task::script("exit 0");
    task.description.mounts = vec![mount("/x", MountedFrom::Host("/no/such".into()), true)];
    task.start();
    let TaskEnd::NotStarted { why, .. } = wait_for("the record", || task.record()).end else {
        panic!("it ran");
    };
    assert!(why.contains("/no/such") && why.contains("/x"), "{why}");
}

/// A task with a package over its own, whose links would lead out.
fn layered(secret: &Path) -> Task {
    let script = "cat /package/conf /package/low /package/up; /package/bin/extra; \
                  cat /package/out /package/above 2>/dev/null && echo led out; \
                  (echo x > /package/conf) 2>/dev/null || echo refused; \
                  (echo x > /package/new) 2>/dev/null || echo refused; \
                  grep -c ' /package ' /proc/self/mountinfo; exit 3";
    let mut task = Task::script(script);
    let at = |name: &str| task.folder.path().join(name);
    fs::create_dir_all(at("upper:one/bin")).unwrap();
    fs::write(at("package/conf"), "below\n").unwrap();
    fs::write(at("package/low"), "low\n").unwrap();
    fs::write(at("upper:one/conf"), "above\n").unwrap();
    fs::write(at("upper:one/up"), "up\n").unwrap();
    fs::write(at("upper:one/bin/extra"), "#!/bin/sh\necho extra\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(at("upper:one/bin/extra"), mode).unwrap();
    std::os::unix::fs::symlink(secret, at("upper:one/out")).unwrap();
    let above = format!("../../../../../../../..{}", secret.display());
    std::os::unix::fs::symlink(above, at("upper:one/above")).unwrap();
    task.description.layers = vec![at("upper:one")];
    task
}

#[test]
fn packages_lie_over_each_other_and_lead_nowhere_else() {
    let host = tempfile::tempdir().unwrap();
    let secret = host.path().canonicalize().unwrap().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    let wanted = ["above", "low", "up", "extra", "refused", "refused", "1"];
    for user in [false, true] {
        if user && !(is_root() && users_may_have_namespaces()) {
            return skip("needs root, and user namespaces for an ordinary user");
        }
        let mut task = layered(&secret);
        match user {
            true => task.start_as(65_534, |_| {}),
            false => task.start(),
        }
        let end = wait_for("the record", || task.record()).end;
        assert_eq!(task.texts(), wanted, "user {user}: {end:?}");
    }
}

#[test]
fn more_packages_over_each_other_than_can_be_are_refused_by_number() {
    let mut task = Task::script("echo ran");
    let package = task.description.package.clone();
    task.description.layers = vec![package; 8];
    task.start();
    let TaskEnd::NotStarted { why, .. } = wait_for("the record", || task.record()).end else {
        panic!("it ran");
    };
    assert!(
        why.contains("9 packages") && why.contains("at most 8"),
        "{why}"
    );
}

#[test]
fn mounts_and_files_without_a_root_are_refused_and_not_forgotten() {
    let mut task = Task::script("echo ran");
    task.description.isolation = Isolation::of(Profile::None, false);
    task.description.profile = Profile::None;
    task.description.files = vec![WrittenFile {
        path: "app".into(),
        contents: String::new(),
        mode: 0o600,
    }];
    task.start();
    let TaskEnd::NotStarted { why, .. } = wait_for("the record", || task.record()).end else {
        panic!("it ran");
    };
    assert!(why.contains("need a root of its own"), "{why}");
}

#[test]
fn a_daemon_of_the_host_sees_the_host() {
    let mut task = Task::script("readlink /proc/self/ns/pid; pwd");
    task.description.isolation = Isolation::of(Profile::None, false);
    task.description.profile = Profile::None;
    task.start();
    assert_eq!(task.recorded_exit().code, Some(0));
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    let folder = task.description.task_folder.canonicalize().unwrap();
    let wanted = [own.display().to_string(), folder.display().to_string()];
    assert_eq!(task.texts(), wanted);
}

#[test]
fn a_strict_task_writes_only_where_it_may() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("alone"), "").unwrap();
    let script = "for at in /x /etc/x /run/x /tmp/x /task/x /mnt/f /package/x; do \
                  (echo y > $at) 2>/dev/null && echo $at; done; true";
    let mut task = Task::script(script);
    task.description.profile = Profile::Strict;
    task.description.isolation = Isolation::of(Profile::Strict, false);
    task.description.mounts = vec![Mounted {
        at: "/mnt/f".into(),
        from: MountedFrom::Host(host.path().canonicalize().unwrap().join("alone")),
        read_only: false,
    }];
    task.start();
    let end = wait_for("the record", || task.record()).end;
    assert_eq!(
        task.texts(),
        ["/run/x", "/tmp/x", "/task/x", "/mnt/f"],
        "{end:?}"
    );
}

#[test]
fn a_task_with_a_network_of_its_own_sees_no_device_of_the_host() {
    if !is_root() && !users_may_have_namespaces() {
        return skip("needs root, or user namespaces for an ordinary user");
    }
    let names = "find /sys/class/net/ /sys/devices/virtual/net/ -mindepth 1; \
                 find /sys/devices -path '*/net/*'; true";
    let mut task = Task::script(names);
    task.description.profile = Profile::Strict;
    task.description.isolation = Isolation::of(Profile::Strict, false);
    task.start();
    assert_eq!(task.recorded_exit().code, Some(0));
    assert_eq!(task.texts(), [""; 0]);
    // The host has some: loopback at least.
    assert!(fs::read_dir("/sys/class/net").unwrap().next().is_some());
}

#[test]
fn limits_of_processes_are_the_sandboxs_and_not_the_agents() {
    let mut task = Task::script("ulimit -Sc; ulimit -Sn; ulimit -Hl");
    task.start();
    assert_eq!(task.recorded_exit().code, Some(0));
    let most = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let files = most.unwrap().1.min(65_536).to_string();
    let texts = task.texts();
    assert_eq!(texts[..2], ["0", &files]);
    assert!(texts[2].parse::<u64>().unwrap() <= 8 << 10, "{texts:?}");
}

#[test]
fn a_number_that_means_no_user_is_refused() {
    let mut task = Task::script("id -u");
    task.description.user = Some(UserIds {
        uid: u32::MAX,
        gid: u32::MAX,
    });
    task.start();
    let end = wait_for("the record", || task.record()).end;
    let TaskEnd::NotStarted { why, .. } = end else {
        panic!("it ran: {end:?}");
    };
    assert!(why.contains("4294967295"), "{why}");
}

#[test]
fn folders_made_for_a_file_belong_to_the_tasks_user() {
    if !is_root() {
        return skip("needs root");
    }
    let mut task = Task::script("echo mine > sub/deep/beside && cat sub/deep/beside");
    task.description.user = Some(UserIds {
        uid: 4_321,
        gid: 1_234,
    });
    task.description.files = vec![WrittenFile {
        path: "sub/deep/app.conf".into(),
        contents: String::new(),
        mode: 0o600,
    }];
    task.start();
    assert_eq!(task.recorded_exit().code, Some(0), "{:?}", task.texts());
    assert_eq!(task.texts(), ["mine"]);
}

#[test]
fn root_runs_a_task_as_another_who_owns_its_folder() {
    if !is_root() {
        return skip("needs root");
    }
    let mut task =
        Task::script("id -u; id -g; id -G; echo mine > file && stat -c %u file; ls /run -d");
    task.description.user = Some(UserIds {
        uid: 4_321,
        gid: 1_234,
    });
    task.start();
    assert_eq!(task.recorded_exit().code, Some(0));
    assert_eq!(task.texts(), ["4321", "1234", "1234", "4321", "/run"]);
}
