"""What can be evaluated: one file a family of tasks, all behind `task.Task`."""
