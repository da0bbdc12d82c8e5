"""NUWA-LIP (Ni, Li and Zuo, CVPR 2023): inpainting of 256 px pictures by predicting the codes of a VQGAN."""
