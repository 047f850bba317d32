// Writes cpio archives of the format "newc", which Linux unpacks as its first file system.
//
// Source: Linux's Documentation/driver-api/early-userspace/buffer-format.rst.
#ifndef QUIRE_VMM_BOOT_CPIO_H_
#define QUIRE_VMM_BOOT_CPIO_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quire {

// Paths are relative to the root, without a leading slash; a folder is added before what is in it.
// Everything belongs to root and dates from 1970, so that the same archive is the same bytes. Not thread safe.
class CpioWriter {
 public:
  void AddFolder(absl::string_view path);
  void AddFile(absl::string_view path, absl::Span<const std::byte> content, uint32_t permissions);
  void AddCharacterDevice(absl::string_view path, uint32_t major, uint32_t minor, uint32_t permissions);

  // The whole archive. Nothing may be added afterwards.
  std::vector<std::byte> Finish() &&;

 private:
  struct Entry {
    absl::string_view path;
    uint32_t mode = 0;
    absl::Span<const std::byte> content;
    uint32_t device_major = 0, device_minor = 0;
  };
  void Add(const Entry& entry);

  std::string archive_;
  uint32_t entries_ = 0;
};

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_CPIO_H_
