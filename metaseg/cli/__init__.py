"""The command line: every verb is one call of a public function with the same settings."""
