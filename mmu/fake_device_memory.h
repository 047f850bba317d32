// For tests of devices: a guest's memory that is a plain array.
#ifndef QUIRE_MMU_FAKE_DEVICE_MEMORY_H_
#define QUIRE_MMU_FAKE_DEVICE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/units.h"
#include "mmu/device_memory.h"

namespace quire {

class FakeDeviceMemory : public DeviceMemory {
 public:
  explicit FakeDeviceMemory(ByteCount size) : bytes_(size.in_bytes()) {}

  absl::Status Read(Gpa from, absl::Span<std::byte> to) override {
    if (!Has(from, to.size())) return OutOfRange();
    std::memcpy(to.data(), At(from), to.size());
    return absl::OkStatus();
  }
  absl::Status Write(Gpa to, absl::Span<const std::byte> from) override {
    if (!Has(to, from.size())) return OutOfRange();
    std::memcpy(At(to), from.data(), from.size());
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<Buffer>> Wire(Gpa begin, ByteCount size) override {
    if (!Has(begin, size.in_bytes())) return OutOfRange();
    return std::make_unique<Whole>(*this, absl::MakeSpan(At(begin), size.in_bytes()));
  }
  absl::Status Discard(Gpa begin, PageCount size) override {
    if (!Has(begin, size.in_bytes())) return OutOfRange();
    std::memset(At(begin), 0, size.in_bytes());
    discarded_ += size;
    return absl::OkStatus();
  }

  std::byte* At(Gpa gpa) { return bytes_.data() + gpa.value(); }
  ByteCount size() const { return ByteCount::Bytes(bytes_.size()); }
  int wired() const { return wired_; }                // buffers that live
  PageCount discarded() const { return discarded_; }  // in all

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
  int wired_ = 0;
  PageCount discarded_;
};

}  // namespace quire

#endif  // QUIRE_MMU_FAKE_DEVICE_MEMORY_H_
