//! Long-lived tasks of the daemon, each with a name for the error when it ends.

use tokio::task::JoinSet;

/// Set of tasks that run until the shutdown.
///
/// The end of any of them ends the daemon.
#[derive(Debug, Default)]
pub(crate) struct TaskSet(JoinSet<&'static str>);

impl TaskSet {
    /// Spawns a task under a name that appears in errors.
    pub(crate) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until a task ends, and returns its name. A task that panicked is "a task".
    pub(crate) async fn ended(&mut self) -> &'static str {
        self.0.join_next().await.and_then(Result::ok).unwrap_or("a task")
    }

    /// Aborts all tasks and waits for their end.
    pub(crate) async fn shutdown(&mut self) {
        self.0.shutdown().await;
    }
}
