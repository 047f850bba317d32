// For tests of devices: a guest's memory that is a plain array.
#ifndef QUIRE_MMU_FAKE_DEVICE_MEMORY_H_
#define QUIRE_MMU_FAKE_DEVICE_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "mmu/device_memory.h"

namespace quire {

// Its calls are thread safe, as those of any; who looks at bytes by their address does so while no device works.
class FakeDeviceMemory : public DeviceMemory {
 public:
  explicit FakeDeviceMemory(ByteCount size) : bytes_(size.in_bytes()) {}

  absl::Status Read(Gpa from, absl::Span<std::byte> to) override {
    if (!Has(from, to.size())) return OutOfRange();
    absl::MutexLock lock(&lock_);
    std::memcpy(to.data(), At(from), to.size());
    return absl::OkStatus();
  }
  absl::Status Write(Gpa to, absl::Span<const std::byte> from) override {
    if (!Has(to, from.size())) return OutOfRange();
    absl::MutexLock lock(&lock_);
    std::memcpy(At(to), from.data(), from.size());
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Buffer>> Wire(Gpa begin, ByteCount size) override {
    if (!Has(begin, size.in_bytes())) return OutOfRange();
    return std::make_unique<Whole>(*this, absl::MakeSpan(At(begin), size.in_bytes()));
  }
  absl::Status Discard(Gpa begin, PageCount size) override {
    if (!Has(begin, size.in_bytes())) return OutOfRange();
    absl::MutexLock lock(&lock_);
    std::memset(At(begin), 0, size.in_bytes());
    discarded_ += size;
    return absl::OkStatus();
  }

  std::byte* At(Gpa gpa) { return bytes_.data() + gpa.value(); }
  ByteCount size() const { return ByteCount::Bytes(bytes_.size()); }
  // Buffers that live.
  int wired() const { return wired_; }
  // In all.
  PageCount discarded() const {
    absl::MutexLock lock(&lock_);
    return discarded_;
  }

 private:
  class Whole : public Buffer {
   public:
    Whole(FakeDeviceMemory& memory, absl::Span<std::byte> bytes) : memory_(memory), pieces_{bytes} { ++memory_.wired_; }
    ~Whole() override { --memory_.wired_; }
    absl::Span<const absl::Span<std::byte>> pieces() const override { return pieces_; }

   private:
    FakeDeviceMemory& memory_;
    const std::vector<absl::Span<std::byte>> pieces_;
  };

  // Not by the range's end, which may overflow.
  bool Has(Gpa begin, uint64_t size) const {
    return begin.value() <= bytes_.size() && size <= bytes_.size() - begin.value();
  }
  static absl::Status OutOfRange() { return absl::OutOfRangeError("that is not memory of the guest"); }

  std::vector<std::byte> bytes_;
  std::atomic<int> wired_ = 0;
  mutable absl::Mutex lock_;  // one copy at a time
  PageCount discarded_ ABSL_GUARDED_BY(lock_);
};

}  // namespace quire

#endif  // QUIRE_MMU_FAKE_DEVICE_MEMORY_H_
