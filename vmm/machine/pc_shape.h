// What the user may choose of a PC's devices.
#ifndef QUIRE_VMM_MACHINE_PC_SHAPE_H_
#define QUIRE_VMM_MACHINE_PC_SHAPE_H_

#include <cstddef>
#include <string>

#include "vmm/boot/pc_layout.h"

namespace quire {

// A raw image file.
struct DiskOptions {
  std::string path;
  bool read_only = false;
};

// Devices behind virtio-mmio come in this order, disks last.
enum class PcVirtio : int { kRng, kBalloon, kConsole, kFirstDisk };

inline constexpr int kMostDisks = kMaxVirtioDevices - static_cast<int>(PcVirtio::kFirstDisk);
constexpr int PcVirtioDevices(size_t disks) { return static_cast<int>(PcVirtio::kFirstDisk) + static_cast<int>(disks); }

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_PC_SHAPE_H_
