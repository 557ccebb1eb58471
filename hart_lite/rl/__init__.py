"""AP-GRPO as pure functions: advantages, weights, losses, and its form for TRL."""
