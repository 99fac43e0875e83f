"""Reasons why an image or a row of a source dataset cannot be used."""

from __future__ import annotations

from compact_hf.records import Reason


class ImageReason(Reason):
    """Why no question is asked about an image."""

    UNREADABLE = "unreadable file"
    EMPTY = "empty file"
    NO_IMAGE = "not a picture"
    CORRUPT = "corrupt picture"
    TOO_LARGE = "too many pixels"
    TOO_SMALL = "too small"
    TOO_NARROW = "too narrow"
    DUPLICATE = "duplicate picture"


class RowReason(Reason):
    """Why no question can be read from a row of a source dataset."""

    NO_IMAGE = "no picture"
    SEVERAL_IMAGES = "several pictures"
    NO_PATH = "image is not a path"
    NOT_OBJECTS = "not a list of objects"
    NOT_AN_OBJECT = "not an object"
    NO_CONVERSATIONS = "no conversations"
    NO_QUESTIONS = "no questions"
    NO_TEXT = "message without text"
    EMPTY_MESSAGE = "empty message"
    UNKNOWN_PART = "part that is neither text nor image"
    UNKNOWN_ROLE = "unknown role"
    NOT_ALTERNATING = "roles do not alternate"
