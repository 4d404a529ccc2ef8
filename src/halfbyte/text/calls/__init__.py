"""Tool calls as models write them: the forms as data, and one reader for a growing answer."""
