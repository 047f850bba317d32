// The pages of a real file as content of guests (--content=FILE). Host only.
#ifndef QUIRE_WORKLOADS_CONTENT_FILE_H_
#define QUIRE_WORKLOADS_CONTENT_FILE_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/units.h"

namespace quire {

// A copy of a file's whole pages in anonymous memory, at most kMost of them: evenly spaced ones of a larger file.
// Page-aligned, so that it can be a read-only memslot. Movable; immutable, so any thread may read it.
class ContentFile {
 public:
  static constexpr PageCount kMost = PageCount(4096);  // 16 MiB

  // Error: kInvalidArgument with one sentence when the file is not a regular, readable one of at least a page;
  // what mmap reports when there is no memory for the copy.
  static absl::StatusOr<ContentFile> Load(const std::string& path);

  PageCount size() const { return PageCount::Ceil(pages_.size()); }
  Hva address() const { return pages_.hva(); }
  const uint64_t* words() const { return reinterpret_cast<const uint64_t*>(pages_.data()); }

 private:
  explicit ContentFile(Mapping pages) : pages_(std::move(pages)) {}

  Mapping pages_;
};

}  // namespace quire

#endif  // QUIRE_WORKLOADS_CONTENT_FILE_H_
