"""The laboratory of `tinyldm explore`: a page to move things on, one small file a panel (extra `web`).

What a panel shows is computed by functions from plain inputs to arrays and pictures, which know nothing of the web;
`panels` lists them, and `routes` answers the page.
"""
