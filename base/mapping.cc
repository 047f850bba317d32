#include "base/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace quire {

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this == &other) return *this;
  Unmap();
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, {});
  return *this;
}

absl::StatusOr<Mapping> Mapping::Map(ByteCount size, int protection, int flags, int fd, off_t offset) {
  void* const data = mmap(nullptr, size.in_bytes(), protection, flags, fd, offset);
  if (data == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrCat("mapping ", size.in_bytes(), " bytes at offset ", offset));
  }
  return Mapping(data, size);
}

// Reserves more than is asked for, maps over the aligned part of it and gives the rest back.
absl::StatusOr<Mapping> Mapping::MapAligned(ByteCount size, ByteCount alignment, int protection, int flags, int fd,
                                            off_t offset) {
  QUIRE_CHECK(alignment.page_aligned() && (alignment.in_bytes() & (alignment.in_bytes() - 1)) == 0);
  const ByteCount reserved = size + alignment;
  absl::StatusOr<Mapping> reservation = Map(reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!reservation.ok()) return reservation.status();

  std::byte* const begin = reservation->data();
  const uint64_t misaligned = reservation->hva().value() % alignment.in_bytes();
  std::byte* const aligned = misaligned == 0 ? begin : begin + (alignment.in_bytes() - misaligned);
  if (mmap(aligned, size.in_bytes(), protection, flags | MAP_FIXED, fd, offset) == MAP_FAILED) {
    return absl::ErrnoToStatus(errno, absl::StrCat("mapping ", size.in_bytes(), " bytes at offset ", offset));
  }
  std::byte* const end = aligned + size.in_bytes();
  reservation->data_ = nullptr;
  if (aligned != begin) munmap(begin, aligned - begin);
  if (end != begin + reserved.in_bytes()) munmap(end, begin + reserved.in_bytes() - end);
  return Mapping(aligned, size);
}

void Mapping::Unmap() {
  if (data_ != nullptr) QUIRE_CHECK(munmap(data_, size_.in_bytes()) == 0);
  data_ = nullptr;
  size_ = {};
}

}  // namespace quire
