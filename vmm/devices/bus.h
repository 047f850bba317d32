// Who answers at which address of a guest: ports, or physical memory that is no memory.
#ifndef QUIRE_VMM_DEVICES_BUS_H_
#define QUIRE_VMM_DEVICES_BUS_H_

#include <cstddef>
#include <cstdint>
#include <map>

#include "absl/types/span.h"

namespace quire {

// A device as vCPUs see it. Thread safe: each vCPU calls from a thread of its own.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  // 1, 2, 4 or 8 bytes, little endian, at `offset` from the device's first address. An access is nothing that could
  // fail: what a device has nothing for reads as it likes, and is written to no effect.
  virtual void Read(uint64_t offset, absl::Span<std::byte> data) = 0;
  virtual void Write(uint64_t offset, absl::Span<const std::byte> data) = 0;
};

// Thread safe once all devices are attached.
class Bus {
 public:
  Bus() = default;
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;

  // The device, which outlives this, has the `size` addresses from `begin`, which nobody has yet. A device that has
  // several ranges is attached several times: `offset` is what it is called with for `begin`.
  void Attach(uint64_t begin, uint64_t size, BusDevice* device, uint64_t offset = 0);

  // False: nobody is there, and a read gives all ones. An access that runs over the end of a device's range is
  // nobody's.
  bool Read(uint64_t address, absl::Span<std::byte> data) const;
  bool Write(uint64_t address, absl::Span<const std::byte> data) const;

 private:
  struct Range {
    uint64_t last;  // address, so that one may end where addresses do
    BusDevice* device;
    uint64_t offset;
  };
  struct Place {
    BusDevice* device = nullptr;
    uint64_t offset = 0;
  };
  Place Find(uint64_t address, size_t size) const;

  std::map<uint64_t, Range> ranges_;  // by their begin
};

}  // namespace quire

#endif  // QUIRE_VMM_DEVICES_BUS_H_
