//! End to end, on real processes: every node is a `potluck node`, every
//! question is a `potluck` command. Needs the programs of the workspace,
//! built: `cargo build --workspace`.

mod e2e {
    mod agent;
    mod batch;
    mod cli;
    mod cut;
    mod debug;
    mod ending;
    mod exclusive;
    mod exec;
    mod hosts;
    mod jobs;
    mod join;
    mod logs;
    mod operate;
    mod packages;
    mod plan;
    mod quota;
    mod recover;
    mod sandbox;
    mod scenario;
    mod ssh;
    mod ssh_window;
    mod testnet;
    mod versions;
    mod voters;
}
