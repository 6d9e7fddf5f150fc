"""Small archives for the tests of the dataset layer."""

import hashlib
import hmac
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

FORMS = ("folder", "zip", "tar", "tar.gz")


def pack(files, form, path):
    """Write {name: content} as `path` (a folder) or `path`.<form>; return where."""
    if form == "folder":
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path
    archive = path.with_name(f"{path.name}.{form}")
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as handle:
            for name, content in files.items():
                handle.writestr(name, content)
        return archive
    with tarfile.open(archive, "w:gz" if form != "tar" else "w") as handle:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            handle.addfile(info, io.BytesIO(content))
    return archive


def noise(seed, width=20, height=16, mode="RGB", suffix="png"):
    """An encoded image of noise, and its pixels."""
    channels = () if mode == "L" else (len(mode),)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if suffix == "jpg" else suffix)
    return buffer.getvalue(), pixels


def zip_bytes(files, method=zipfile.ZIP_DEFLATED):
    """A zip of {name: content} in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as handle:
        for name, content in files.items():
            handle.writestr(name, content)
    return buffer.getvalue()


def tar_gz_bytes(files):
    """A .tar.gz of {name: content} in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as handle:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            handle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def encrypted_zip_bytes(files, password):
    """A zip of {name: content} encrypted by ZipCrypto (APPNOTE.TXT 6.1), which Python reads and does not write."""
    body, directory = b"", b""
    for name, content in files.items():
        packer = zlib.compressobj(wbits=-15)
        crc, packed = zlib.crc32(content), packer.compress(content) + packer.flush()
        data = _zip_crypto(bytes(11) + bytes([crc >> 24]) + packed, password)
        encoded = name.encode()
        fields = struct.pack("<HHHHHIIIHH", 20, 1, 8, 0, 33, crc, len(data), len(content), len(encoded), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + encoded
        body += b"PK\3\4" + fields + encoded + data
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def _zip_crypto(data, password):
    table = [_plain_crc(i) for i in range(256)]
    keys = [0x12345678, 0x23456789, 0x34567890]

    def update(byte):
        keys[0] = (keys[0] >> 8) ^ table[(keys[0] ^ byte) & 0xFF]
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = (keys[2] >> 8) ^ table[(keys[2] ^ (keys[1] >> 24)) & 0xFF]

    for byte in password:
        update(byte)
    out = bytearray()
    for byte in data:
        k = keys[2] | 2
        out.append(byte ^ (((k * (k ^ 1)) >> 8) & 0xFF))
        update(byte)
    return bytes(out)


def _plain_crc(value):
    for _ in range(8):
        value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
    return value


def aes_zip_bytes(files, password, method=8):
    """A zip of {name: content} encrypted by AES-256 (AE-2), as 7-Zip and WinZip write."""
    from Crypto.Cipher import AES
    from Crypto.Util import Counter

    body, directory = b"", b""
    for name, content in files.items():
        packer, salt = zlib.compressobj(wbits=-15), bytes(range(16))
        packed = packer.compress(content) + packer.flush()
        keys = hashlib.pbkdf2_hmac("sha1", password, salt, 1000, 66)
        cipher = AES.new(keys[:32], AES.MODE_CTR, counter=Counter.new(128, little_endian=True))
        secret = cipher.encrypt(packed)
        data = salt + keys[64:] + secret + hmac.digest(keys[32:64], secret, "sha1")[:10]
        extra, encoded = struct.pack("<HHH2sBH", 0x9901, 7, 2, b"AE", 3, method), name.encode()
        fields = struct.pack("<HHHHHIIIHH", 51, 1, 99, 0, 33, 0, len(data), len(content), len(encoded), len(extra))
        place = struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += b"PK\1\2" + struct.pack("<H", 51) + fields + place + encoded + extra
        body += b"PK\3\4" + fields + encoded + extra + data
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def deflate64_zip_bytes(files):
    """A zip of {name: content} packed by Deflate64, as Windows writes above 2 GB."""
    import inflate64

    body, directory = b"", b""
    for name, content in files.items():
        packer = inflate64.Deflater()
        data, encoded = packer.deflate(content) + packer.flush(), name.encode()
        fields = struct.pack(
            "<HHHHHIIIHH", 21, 0, 9, 0, 33, zlib.crc32(content), len(data), len(content), len(encoded), 0
        )
        directory += b"PK\1\2" + struct.pack("<H", 21) + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + encoded
        body += b"PK\3\4" + fields + encoded + data
    end = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + end


def seven_zip_bytes(files, password=None):
    """A 7z of {name: content} in memory."""
    import py7zr

    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", password=password) as handle:
        for name, content in files.items():
            handle.writestr(content, name)
    return buffer.getvalue()
