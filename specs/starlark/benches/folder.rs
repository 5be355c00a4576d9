//! Evaluation of a folder of 1,000 jobs that share libraries, beside reading
//! and hashing the same bytes: what no evaluator can be faster than.
//!
//! `cargo bench -p potluck-starlark --profile dev --bench folder`
//!
//! It runs itself as the child that evaluates, as the tests do.

mod measure;

use measure::{ROUNDS, measure};
use potluck_starlark::{Evaluated, Evaluator, Root, Sandbox, Wanted, child_main};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

const CHILD: &str = "internal-evaluate";

/// Spec files, each with one job.
const JOBS: usize = 1_000;

/// Libraries, each used by its share of the specs; all load one more.
const LIBRARIES: usize = 10;

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(CHILD) {
        return ExitCode::from(child_main());
    }
    let folder = tempfile::tempdir().expect("a folder for the specs");
    let specs = write_specs(folder.path());
    let sandbox = Sandbox {
        executable: env::current_exe().expect("our own path"),
        args: vec![CHILD.into()],
    };
    let wanted = Wanted::default();
    println!(
        "{JOBS} specs with one job each, {LIBRARIES} libraries over a common one; median of {ROUNDS} (least to most)"
    );
    measure("evaluated in a child (spec check)", || {
        let outcomes = sandbox.evaluate_all(&specs, &wanted);
        let good = outcomes
            .iter()
            .filter(|outcome| outcome.as_ref().is_ok_and(is_one_job));
        assert_eq!(good.count(), JOBS);
    });
    measure("evaluated in this process", || {
        let (mut root, _) = Root::of(&specs[0]).expect("a spec");
        let mut evaluator = Evaluator::new(&mut root, wanted.clone());
        for spec in &specs {
            let (_, label) = Root::of(spec).expect("a spec");
            assert!(is_one_job(&evaluator.evaluate(&label)));
        }
    });
    measure("one spec in a child (potluck run)", || {
        let outcome = sandbox.evaluate(&specs[0], &wanted);
        assert!(outcome.is_ok_and(|evaluated| is_one_job(&evaluated)));
    });
    measure("bound: the same files read and hashed", || {
        let mut hasher = blake3::Hasher::new();
        for spec in &specs {
            hasher.update(&fs::read(spec).expect("a spec"));
        }
        assert_ne!(hasher.finalize().as_bytes(), &[0; 32]);
    });
    ExitCode::SUCCESS
}

fn is_one_job(evaluated: &Evaluated) -> bool {
    !evaluated.is_refused() && evaluated.jobs.len() == 1
}

fn write_specs(folder: &Path) -> Vec<PathBuf> {
    let write = |path: &str, text: String| {
        let path = folder.join(path);
        fs::write(&path, text).expect("space for the specs");
        path
    };
    fs::create_dir(folder.join("lib")).expect("space for the specs");
    write("potluck.root", String::new());
    write(
        "lib/common.star",
        "SIZES = {'small': struct(cpu = 0.25, memory = '128MiB'), 'large': struct(cpu = 2, memory = '1GiB')}\n\
         def labels(team, **more):\n    return {'team': team} | more\n"
            .into(),
    );
    for k in 0..LIBRARIES {
        write(
            &format!("lib/web{k}.star"),
            format!(
                "load('//lib/common.star', 'SIZES', 'labels')\n\
                 def web_service(name, size = 'small', replicas = 2, env = {{}}, **more):\n    \
                 job(name = name, namespace = 'team{k}', package = 'build/web', command = 'bin/web', \
                 args = ['--port', '${{port.http}}'], replicas = replicas, cpu = SIZES[size].cpu, \
                 memory = SIZES[size].memory, env = {{'SERVICE': name}} | env, ports = ['http'], \
                 services = {{name: 'http'}}, health = http('http', '/healthz'), \
                 annotations = labels('team{k}', tier = 'web'), **more)\n"
            ),
        );
    }
    let spec = |k: usize| {
        let library = k % LIBRARIES;
        write(
            &format!("job{k}.star"),
            format!(
                "# Service {k}.\nload('//lib/web{library}.star', 'web_service')\n\n\
                 web_service(\n    'service-{k}',\n    size = '{}',\n    replicas = {},\n    \
                 env = {{'MODE': 'live', 'SHARD': '{k}'}},\n    spread = ['rack'],\n)\n",
                ["small", "large"][k % 2],
                k % 7 + 1,
            ),
        )
    };
    (0..JOBS).map(spec).collect()
}
