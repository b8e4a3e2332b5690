"""Image tasks drawn by rule, from nothing but the pinned packages."""
