"""The paper's tables, with rows of one's own beside the published ones."""
