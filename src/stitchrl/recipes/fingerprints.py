"""Hashes of the built-in logs that shipped policies roll out, and with which simulators they are promised.

They are the same on every machine, whatever its processor: `named_behaviours` rounds away what networks compute otherwise there.
"""

from __future__ import annotations

from collections.abc import Mapping

ROLLED_OUT = 2  # revision of these logs: before, actions were float32 as the processor had it
# other versions may compute other trajectories: then the hash is that of the first making
GYMNASIUM = {"gymnasium": "1.4.0"}
MUJOCO = {"mujoco": "4.0.0"}
ROBOTICS = {"gymnasium-robotics": "1.4.2"}  # mazes
OGBENCH = {"ogbench": "1.2.2"}  # mazes, and the ant of all of them
ATARI = GYMNASIUM | {"ale-py": "0.12.1", "opencv-python-headless": "5.0.0.93"}  # which makes frames smaller

FINGERPRINTS: Mapping[str, str] = {
    "ant/expert": "b36399f99c26e1e732e5f8c659ac60ec606d27e3096d684c3d42d94087844f0b",
    "ant/medium": "b7b1efb7148fcf634ed72e72281052c2bd57da457083212e19c6cd696db0a3be",
    "ant/medium-expert": "2d594006f429d235c757e39a8bce19cc15c238ebde2ae68b926027568b626e0c",
    "ant/medium-replay": "4444ffe858f771d2d651f85ccc56124fe8ec2664b0e0870a844080907b1fe81e",
    "ant/random": "ed435a5c46506104796382befbecfe141c388bd0696abc464d951708478c7069",
    "antmaze/large-diverse": "503c3c6a2c34f63ca6f0924d207080d18afa3520f023e1801b3cb968311c6647",
    "antmaze/large-explore": "ccf8b89729a1ea6a498b8ab581691df3895ffce6e3fb33928896420050864375",
    "antmaze/large-navigate": "7a0d03dee06f77567e6902c793a70523455392a4bafab9c6a821e85c953436d4",
    "antmaze/large-play": "ec8c7319a644e48c415ef17d81be7947b49242ea6d05d6b7dae244eeaed4a05c",
    "antmaze/large-stitch": "c41faa2c7a43de9e2bd0ec694b6d0ea866a856d54167480a1b5db7c267fcc7f4",
    "antmaze/medium-diverse": "684ff25d17422b50c857f6cb327d4e18ca027c851628ca5060436faa16d47916",
    "antmaze/medium-explore": "6a290156e5e3b8e10c32b43119143d456150316c92d0500f56779f1a55054049",
    "antmaze/medium-navigate": "4111620f29b3e7125fce6ae9cae5d8dd4c7bc0ad2e3528a687e9bc6bf66c16d5",
    "antmaze/medium-play": "403581be7d3f9be9422efbe94f3bb336eb2e7ad1760ac00ffcf824179eafbe51",
    "antmaze/medium-stitch": "ea13b030ff7499612cb7ec131f704fe53e2a9e3e6f81ebc9bd7ae57e715e9671",
    "antmaze/umaze-diverse": "d322a130ed065251fc3e6068bc7084acebf2ee88cbdd5afba7d74f14be87a57c",
    "antmaze/umaze-play": "e3612035f79f983fcae9bc4228b2deedd220e915858ae01d3dd3230220d7b089",
    "breakout/expert": "05cdf5ac571062c962ee2cb96f3c253c7079057250026f06e86b553466a9e1bc",
    "breakout/mixed": "568f52fda3de3a5e4ece9646e51b38450e8f8143b73a828536de9b459e67197f",
    "cartpole/expert": "aa88651becddd85c2f2a748857cbbbd2fe666ea2e5f20432ba5cf5e25e267c62",
    "cartpole/medium": "988e1e1d4b602bf1c6117ec0f60bac9b1982b7970b08e940b56c42c8ff2554c0",
    "cartpole/mixed": "afb90b0ebf84305cde2dc01a76916df5ee34f2a6d04b38ae3595833b32787d2a",
    "halfcheetah/expert": "62142ebcea2446806170eff9ddc88bc3c5321730a6623f4cf15093b6c8068852",
    "halfcheetah/medium": "93c2c10731e868b92d63d22198474a64c16812ff5e78205a225277faa334c4b0",
    "halfcheetah/medium-expert": "fedb85908dfb01c28aea1330dacb1427746f07992de42bb8ebd1c6c246c8e23c",
    "halfcheetah/medium-replay": "0dcbd0edacd123a2daa8d3205633eaa756fe8ad2cfb9255a8afe621a62a91200",
    "halfcheetah/random": "5a222cfae059364ecd1b6cec891209ebc415742f0b227a1ef1af88738175dd65",
    "hopper/expert": "51ba62ce88a4dd91616034ad84a5a603ace8bfcfd05d3989d9db1d7984b0594c",
    "hopper/medium": "bcd6e59e62d99de9e93f63fdac104f032c4b2b3af840b31b5caf67350453206d",
    "hopper/medium-expert": "a46841cb5d1c1b43d5670006d0c96a384b4b57ac546d17ea1cb35188b9ce01d2",
    "hopper/medium-replay": "3eb6cb061da67a689de843fd188ce247eaf8baeface8fa5c5effb26637ddde76",
    "hopper/random": "16fcb0816355edb9fdb35b379bea46ec1ede80d8b0302517403dc618d40364b4",
    "pendulum/expert": "a34a11ef0314d290672d9ccc1704157e4d4b6204dd1b232d4cfb8ee86222e623",
    "pendulum/medium": "4d31340b8de34fbaea646949fb098ba665e42d24c1d951f2e8e7a858877f7e63",
    "pendulum/mixed": "c0da00ce0225eda3804cf6e123112b7f55f503854cebbee6515a075ba3331296",
    "pong/expert": "1fdbd710caf605af5560347a2d119207495099c74e8212e9f83ee68025d8cac8",
    "pong/mixed": "3da87cfd5bd1a1cadd1e1533bc3b53f07d5915fdbc154e36970760d48703f9d5",
    "walker2d/expert": "125cb0e962cf95ff0828983d77651338e984e051bad960523a767721a30dda3f",
    "walker2d/medium": "1e4cceb4b3114a7f12d5b78fbfd13ae299015a30c67a15133f322df05d033843",
    "walker2d/medium-expert": "00e4e2a8b7206fe97ca2e17eb451a3f04469cf15b05b1ccacd12a627cc39117a",
    "walker2d/medium-replay": "3dca60d7a60ef874b1e46a5c34f6468a332a4b7ba89d484a928a9fe7745a90b3",
    "walker2d/random": "8f8fe002f823f319a1bfb5c0e54d3650235df762e59176531032bc6e871b3775",
}
