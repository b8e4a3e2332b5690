"""Tables and figures of studies of adapters: models that adapt to unlabelled inputs."""
