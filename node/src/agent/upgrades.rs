//! Brings the helpers that an agent finds to its own build, one after the
//! other, while their tasks run.
//!
//! One actor. In: which helpers greet, answer and go, from the agent's actor,
//! which never waits for this one. Out: an order over a helper's connection,
//! and what is known of all helpers' builds, for people. It asks the program
//! whether it can go on with what a helper hands on before it orders anything,
//! and waits for each answer, so that what goes wrong goes wrong once. It ends
//! with the agent; a helper that was ordered by then carries it out.
//!
//! ```text
//! greeted ── its build is ours ──▶ nothing to do
//!    └─ another ─▶ waiting ─▶ asked ─▶ ordered ──▶ upgraded
//!                               └─────────┴──────▶ stays as it is, with a reason
//! ```

use super::link::Link;
use crate::spawn::spawn;
use potluck_core::host::Run;
use potluck_helper::{AgentMessage, resume::CAN_RESUME};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// News that wait: three of each helper of a large host. What has no room is
/// left out, and its helper stays as it is until it greets again.
const NEWS_WAITING: usize = 4_096;

/// Time for a helper to answer: its log comes to rest within two seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Time for a program to say what it can: it reads its arguments.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Letters of a program's hash that stand for its build, as in `git`.
const BUILD_LETTERS: usize = 8;

/// Helpers of one build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperBuild {
    /// The beginning of the program's hash.
    pub build: String,
    /// New tasks are started with it.
    pub is_current: bool,
    /// How many there are.
    pub helpers: usize,
    /// Why they are not of the current one, as far as it is known.
    pub why: Option<String>,
}

/// What the agent's actor has of it.
#[derive(Clone, Debug)]
pub(super) struct Upgrades {
    to: mpsc::Sender<News>,
    builds: Builds,
}

/// What is known of helpers' programs.
#[derive(Clone, Debug)]
pub(super) struct Builds {
    current: Arc<Path>,
    known: Arc<Mutex<BTreeMap<Run, Known>>>,
}

#[derive(Clone, Debug)]
struct Known {
    program: PathBuf,
    why: Option<String>,
}

#[derive(Debug)]
enum News {
    Greeted(Candidate),
    Answered(Run, Result<(), String>),
    Gone(Run),
}

/// A helper of another build.
#[derive(Debug)]
struct Candidate {
    run: Run,
    pid: i32,
    link: Link,
    /// What it hands on.
    version: u32,
}

impl Builds {
    pub(super) fn new(program: &Path) -> Builds {
        Builds {
            current: program.into(),
            known: Arc::default(),
        }
    }

    /// All of them, the current one first.
    pub(super) fn list(&self) -> Vec<HelperBuild> {
        let mut list: Vec<HelperBuild> = Vec::new();
        for one in self.known().values() {
            let is_current = *one.program == *self.current;
            let found = list
                .iter_mut()
                .find(|build| build.build == short(&one.program));
            match found {
                Some(build) => {
                    build.helpers += 1;
                    build.why = build.why.take().or_else(|| one.why.clone());
                }
                None => list.push(HelperBuild {
                    build: short(&one.program),
                    is_current,
                    helpers: 1,
                    why: one.why.clone(),
                }),
            }
        }
        list.sort_by(|a, b| (b.is_current, &a.build).cmp(&(a.is_current, &b.build)));
        list
    }

    /// Notes what a process runs. True: the current build.
    fn note(&self, run: &Run, pid: i32, why: Option<String>) -> bool {
        // The kernel's word; of a program that was removed it says so.
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let is_current = *program == *self.current;
        let why = why.filter(|_| !is_current);
        self.known().insert(run.clone(), Known { program, why });
        is_current
    }

    fn forget(&self, run: &Run) {
        self.known().remove(run);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Run, Known>> {
        self.known.lock().expect("no one panics with this lock")
    }
}

/// `helpers/HASH/potluck-helper`: the beginning of the hash.
fn short(program: &Path) -> String {
    let folder = program.parent().and_then(Path::file_name);
    let name = folder.map(|name| name.to_string_lossy().into_owned());
    let letters = name
        .unwrap_or_default()
        .chars()
        .take(BUILD_LETTERS)
        .collect();
    match String::is_empty(&letters) {
        true => "unknown".into(),
        false => letters,
    }
}

impl Upgrades {
    /// Starts the actor. Where helpers are to be left alone it only counts.
    pub(super) fn start(builds: Builds, is_on: bool, token: CancellationToken) -> Upgrades {
        let (to, news) = mpsc::channel(NEWS_WAITING);
        let actor = Actor {
            builds: builds.clone(),
            is_on,
            answers: BTreeMap::new(),
            waiting: VecDeque::new(),
        };
        spawn("helper upgrades", async move {
            tokio::select! {
                () = actor.run(news) => {}
                () = token.cancelled() => {}
            }
        });
        Upgrades { to, builds }
    }

    pub(super) fn builds(&self) -> Builds {
        self.builds.clone()
    }

    /// A helper has dialled; `version` is of what it could hand on.
    pub(super) fn greeted(&self, run: &Run, pid: i32, link: &Link, version: Option<u32>) {
        let too_old = version
            .is_none()
            .then(|| "its build can't be upgraded while its task runs".to_string());
        if self.builds.note(run, pid, too_old) {
            return;
        }
        if let Some(version) = version {
            self.tell(News::Greeted(Candidate {
                run: run.clone(),
                pid,
                link: link.clone(),
                version,
            }));
        }
    }

    /// A helper has done what it was told, or says why not.
    pub(super) fn answered(&self, run: Run, outcome: Result<(), String>) {
        self.tell(News::Answered(run, outcome));
    }

    /// A helper's process is gone.
    pub(super) fn gone(&self, run: &Run) {
        self.builds.forget(run);
        self.tell(News::Gone(run.clone()));
    }

    fn tell(&self, news: News) {
        if let Err(error) = self.to.try_send(news) {
            tracing::debug!(%error, "news of a helper is left out");
        }
    }
}

struct Actor {
    builds: Builds,
    is_on: bool,
    /// Whether the program can go on with a version.
    answers: BTreeMap<u32, Result<(), String>>,
    waiting: VecDeque<Candidate>,
}

impl Actor {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        loop {
            if let Some(candidate) = self.waiting.pop_front() {
                self.upgrade(&candidate, &mut news).await;
                continue;
            }
            match news.recv().await {
                Some(one) => self.hear(one),
                None => return,
            }
        }
    }

    fn hear(&mut self, news: News) {
        let run = match &news {
            News::Greeted(candidate) => &candidate.run,
            News::Answered(run, _) | News::Gone(run) => run,
        };
        if !matches!(news, News::Answered(..)) {
            self.waiting.retain(|other| other.run != *run);
        }
        if let News::Greeted(candidate) = news {
            self.waiting.push_back(candidate);
        }
    }

    async fn upgrade(&mut self, candidate: &Candidate, news: &mut mpsc::Receiver<News>) {
        let Candidate { run, pid, .. } = candidate;
        let outcome = match self.may(candidate.version).await {
            Ok(()) => self.order(candidate, news).await,
            Err(why) => Some(Err(why)),
        };
        match outcome {
            None => {}
            Some(Ok(())) if self.builds.note(run, *pid, None) => {
                tracing::info!(%run, "helper upgraded");
            }
            Some(outcome) => {
                let why = outcome.err().unwrap_or_else(|| "it says that it is".into());
                tracing::warn!(%run, why, "helper not upgraded");
                self.builds.note(run, *pid, Some(why));
            }
        }
    }

    async fn may(&mut self, version: u32) -> Result<(), String> {
        if !self.is_on {
            return Err("upgrades of helpers are switched off (--keep-helpers)".into());
        }
        if let Some(answer) = self.answers.get(&version) {
            return answer.clone();
        }
        let answer = ask(self.builds.current.to_path_buf(), version).await;
        self.answers.insert(version, answer.clone());
        answer
    }

    /// Orders it and waits for the answer; nothing if the helper is gone.
    async fn order(
        &mut self,
        candidate: &Candidate,
        news: &mut mpsc::Receiver<News>,
    ) -> Option<Result<(), String>> {
        let program = self.builds.current.to_path_buf();
        candidate.link.send(AgentMessage::Upgrade { program });
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            match timeout_at(until, news.recv()).await {
                Err(_) => return Some(Err("it does not answer".into())),
                Ok(None) => return None,
                Ok(Some(News::Answered(run, outcome))) if run == candidate.run => {
                    return Some(outcome);
                }
                Ok(Some(News::Gone(run))) if run == candidate.run => return None,
                Ok(Some(other)) => self.hear(other),
            }
        }
    }
}

/// Has the program say whether it can go on with what is handed on in this
/// version.
async fn ask(program: PathBuf, version: u32) -> Result<(), String> {
    let asked = spawn_blocking(move || {
        Command::new(program)
            .args([CAN_RESUME, &version.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    });
    match timeout(ASK_LIMIT, asked).await {
        Err(_) => Err("the new build does not answer".into()),
        Ok(asked) => match asked.expect("asking does not panic") {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(format!(
                "the new build can't go on with what theirs hands on (version {version})"
            )),
            Err(error) => Err(format!("the new build can't be run: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::Generation;

    fn run(start: u32) -> Run {
        Run {
            slot: "web[0]".parse().unwrap(),
            origin: Generation::default(),
            start,
        }
    }

    #[test]
    fn helpers_are_counted_by_their_builds_the_current_one_first() {
        let own = std::env::current_exe().unwrap();
        let builds = Builds::new(&own);
        let pid = std::process::id() as i32;
        assert!(builds.note(&run(1), pid, Some("no reason".into())));
        assert!(builds.note(&run(2), pid, None));
        // Not of this build.
        assert!(!builds.note(&run(3), 1, Some("too old".into())));
        // Nobody has this number.
        assert!(!builds.note(&run(4), -1, None));
        builds.forget(&run(2));
        let list = builds.list();
        assert_eq!(list.iter().map(|one| one.helpers).sum::<usize>(), 3);
        assert!(list[0].is_current && list[0].why.is_none());
        assert_eq!(list[0].helpers, 1);
        assert!(list[1..].iter().all(|one| !one.is_current));
        let why = list.iter().find_map(|one| one.why.as_deref());
        assert_eq!(why, Some("too old"));
        let last = short(Path::new("/data/helpers/0123456789abcdef/potluck-helper"));
        assert_eq!(last, "01234567");
    }
}
