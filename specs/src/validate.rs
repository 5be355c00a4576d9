//! Checks of a job draft: every finding at once, each with a way to mend it.
