from android_phone import binary, phone, tiny  # noqa: F401
