#include "vmm/boot/cpio.h"

#include <sys/stat.h>

#include <initializer_list>

#include "absl/strings/str_format.h"

namespace quire {
namespace {

constexpr size_t kAlignment = 4;

void Pad(std::string& archive) { archive.resize((archive.size() + kAlignment - 1) / kAlignment * kAlignment); }

}  // namespace

void CpioWriter::Add(const Entry& entry) {
  const uint32_t links = S_ISDIR(entry.mode) ? 2 : 1;
  const uint32_t content_size = entry.content.size(), path_size = entry.path.size() + 1;
  archive_ += "070701";
  // Inode, mode, user, group, links, time, size, device (major, minor), the node's own device, length of the path,
  // checksum.
  for (const uint32_t number : {++entries_, entry.mode, 0u, 0u, links, 0u, content_size, 0u, 0u, entry.device_major,
                                entry.device_minor, path_size, 0u}) {
    absl::StrAppendFormat(&archive_, "%08X", number);
  }
  archive_.append(entry.path.data(), entry.path.size());
  archive_.push_back('\0');
  Pad(archive_);
  archive_.append(reinterpret_cast<const char*>(entry.content.data()), entry.content.size());
  Pad(archive_);
}

void CpioWriter::AddFolder(absl::string_view path) { Add({.path = path, .mode = S_IFDIR | 0755, .content = {}}); }

void CpioWriter::AddFile(absl::string_view path, absl::Span<const std::byte> content, uint32_t permissions) {
  Add({.path = path, .mode = S_IFREG | permissions, .content = content});
}

void CpioWriter::AddCharacterDevice(absl::string_view path, uint32_t major, uint32_t minor, uint32_t permissions) {
  Add({.path = path, .mode = S_IFCHR | permissions, .content = {}, .device_major = major, .device_minor = minor});
}

std::vector<std::byte> CpioWriter::Finish() && {
  Add({.path = "TRAILER!!!", .mode = 0, .content = {}});
  const auto* begin = reinterpret_cast<const std::byte*>(archive_.data());
  return {begin, begin + archive_.size()};
}

}  // namespace quire
