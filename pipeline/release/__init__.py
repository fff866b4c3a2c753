"""From an approved artifact to a served one: sign-off, bundles, registries, deployment."""
