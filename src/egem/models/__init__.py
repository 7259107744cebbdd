"""GEM: a Qwen3-VL backbone whose visual tokens must suffice to draw the scene's depth."""
