// A delegate that takes nothing, to see that one is loaded: the fields of TfLiteDelegate in
// tflite/core/c/common.h, and the two functions that a library of a delegate exports.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct Delegate {
  void* data;
  int (*prepare)(void* context, struct Delegate* delegate);
  void* copy_from;
  void* copy_to;
  void* free_buffer;
  int64_t flags;
  void* opaque_builder;
} Delegate;

static int take_nothing(void* context, Delegate* delegate) { return 0; }

Delegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count,
                                        void (*report)(const char*)) {
  Delegate* delegate = calloc(1, sizeof(Delegate));
  delegate->prepare = take_nothing;
  return delegate;
}

void tflite_plugin_destroy_delegate(Delegate* delegate) { free(delegate); }
