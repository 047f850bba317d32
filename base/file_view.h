// A file that may be hostile: whatever it says of itself is a claim, checked against its length before it is used.
#ifndef QUIRE_BASE_FILE_VIEW_H_
#define QUIRE_BASE_FILE_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quire {

// Neither the name nor the bytes are copied; both outlive the view. A value, immutable.
class FileView {
 public:
  FileView(absl::string_view name, absl::Span<const std::byte> bytes) : name_(name), bytes_(bytes) {}

  absl::string_view name() const { return name_; }
  uint64_t size() const { return bytes_.size(); }
  absl::Span<const std::byte> bytes() const { return bytes_; }

  bool Holds(uint64_t offset, uint64_t size) const { return size <= bytes_.size() && offset <= bytes_.size() - size; }
  // Only of what it holds.
  absl::Span<const std::byte> Part(uint64_t offset, uint64_t size) const { return bytes_.subspan(offset, size); }

  // A copy of the record at `offset`, or nothing when the file ends before it does. The file's alignment is unknown.
  template <class Record>
  std::optional<Record> ReadAt(uint64_t offset) const {
    static_assert(std::is_trivially_copyable_v<Record>);
    if (!Holds(offset, sizeof(Record))) return std::nullopt;
    Record record;
    std::memcpy(&record, bytes_.data() + offset, sizeof(record));
    return record;
  }

  bool StartsWith(absl::string_view magic) const {
    return Holds(0, magic.size()) && std::memcmp(bytes_.data(), magic.data(), magic.size()) == 0;
  }

  // InvalidArgument: the file's name, then what is wrong with it.
  template <class... Args>
  absl::Status Error(const Args&... args) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": ", args...));
  }

 private:
  absl::string_view name_;
  absl::Span<const std::byte> bytes_;
};

}  // namespace quire

#endif  // QUIRE_BASE_FILE_VIEW_H_
