"""The page of ``dgkit app``: pick, upload or draw a label map, and compare scenes made from it in the browser."""
