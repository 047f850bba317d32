// A mapped region of this process's address space with one owner.
#ifndef QUIRE_BASE_MAPPING_H_
#define QUIRE_BASE_MAPPING_H_

#include <sys/types.h>

#include <cstddef>
#include <utility>

#include "absl/status/statusor.h"
#include "base/units.h"

namespace quire {

// Unmaps the region when it goes. Move-only; not thread safe (the memory it names may be shared freely).
class Mapping {
 public:
  Mapping() = default;
  // Takes ownership of a region that somebody else mapped.
  Mapping(void* data, ByteCount size) : data_(static_cast<std::byte*>(data)), size_(size) {}
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping() { Unmap(); }

  // mmap() at an address of the kernel's choice. `size` is a whole number of pages, at least one; the other arguments
  // are mmap's. Errors: what mmap reports, with the size.
  static absl::StatusOr<Mapping> Map(ByteCount size, int protection, int flags, int fd, off_t offset);
  // The same at an address that is a multiple of `alignment`, a power of two and at least a page: what 2 MiB pages
  // need.
  static absl::StatusOr<Mapping> MapAligned(ByteCount size, ByteCount alignment, int protection, int flags, int fd,
                                            off_t offset);

  std::byte* data() const { return data_; }
  ByteCount size() const { return size_; }
  bool valid() const { return data_ != nullptr; }
  Hva hva() const { return Hva(data_); }
  // Unmaps at once.
  void Unmap();

 private:
  std::byte* data_ = nullptr;
  ByteCount size_;
};

}  // namespace quire

#endif  // QUIRE_BASE_MAPPING_H_
