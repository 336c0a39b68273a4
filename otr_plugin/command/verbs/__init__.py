"""One module for each verb of `otr`, with the name of the verb; it holds a click command named `command`."""
