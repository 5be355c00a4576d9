//! Placeholder head: replaced by its owner's first commit.
