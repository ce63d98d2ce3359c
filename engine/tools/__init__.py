"""Tools: adapters that let a model call functions. Each satisfies `engine.ports.Tool`."""
