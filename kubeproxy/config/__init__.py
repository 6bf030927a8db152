"""KubeProxyConfiguration v1alpha1: what an administrator can choose, from flags or from a file, as one value.

`types` says what there is and its defaults, `decode` and `encode` are the file's and `/configz`'s two directions,
`validation` refuses, `gates` knows the feature gates, `flags` fills the same value from a command line,
`mismatch` compares it with the node, `watch` sees the file change.
"""
