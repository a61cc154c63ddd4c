"""An HTTP server in the dialects that programs already speak; needs the extra `serve`."""
