"""The options of the suites come from the plugin, which the installed package registers by entry point."""
