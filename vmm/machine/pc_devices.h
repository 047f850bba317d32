// What a PC guest has on its buses: a serial port, the switches that turn it off, and virtio devices.
//
//   port 0x3f8          16550 serial port: the console
//   port 0x60, 0x64     keyboard controller, for the reset line alone
//   port 0xf4           ends a test kernel with a status
//   port 0x600, 0xcf9   ACPI's power management; reset
//   0xd000'0000 + ...   virtio-mmio: 0 entropy, 1 balloon, 2 console, 3 and up disks
#ifndef QUIRE_VMM_MACHINE_PC_DEVICES_H_
#define QUIRE_VMM_MACHINE_PC_DEVICES_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "mmu/device_memory.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/debug_exit.h"
#include "vmm/devices/power.h"
#include "vmm/devices/serial.h"
#include "vmm/kvm/interrupt_line.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/pc_vcpu.h"
#include "vmm/machine/pc_shape.h"
#include "vmm/virtio/balloon.h"
#include "vmm/virtio/balloon_offer.h"
#include "vmm/virtio/blk.h"
#include "vmm/virtio/mmio_transport.h"
#include "vmm/virtio/virtio_console.h"

namespace quire {

struct PcDeviceOptions {
  std::vector<DiskOptions> disks = {};  // at most kMostDisks
  ByteCount balloon = {};               // of the guest's memory, that it is asked to give back from the start
  BalloonOffer balloon_offer = {};
  // What the guest writes to its consoles; called on vCPU threads and the console device's.
  std::function<void(absl::string_view)> console = {};
  // The guest has turned itself off or reset itself; called once, for what came first, on a vCPU's thread.
  std::function<void(PowerEvent)> power = {};
  // The guest has ended with a status (debug_exit.h); called on a vCPU's thread.
  std::function<void(uint32_t)> exit = {};
};

// Thread safe, but for Stop.
class PcDevices {
 public:
  // `vm` has its chips; it and `memory` outlive this. Errors: those of KvmCallError; those of Blk for its file.
  static absl::StatusOr<std::unique_ptr<PcDevices>> Create(const KvmVm& vm, DeviceMemory& memory,
                                                           const PcDeviceOptions& options);
  ~PcDevices();

  // What a vCPU came out for. Reads of what is not there are all ones.
  void Serve(const DeviceAccess& access);

  // Sends bytes to the console that the guest has written to last.
  void TypeOnConsole(absl::string_view input);
  void PressPowerButton() { power_->PressPowerButton(); }
  Balloon& balloon() { return *balloon_; }

  // The devices' threads end after what they have in hand. While memory still answers.
  void Stop();
  // Devices that stopped because of what the guest gave them, a sentence each.
  std::vector<std::string> Failures() const;

 private:
  PcDevices(const KvmVm& vm, DeviceMemory& memory, const PcDeviceOptions& options)
      : vm_(vm), memory_(memory), options_(options), switch_(options.power) {}

  absl::Status AddPorts();
  absl::Status AddDisk(const DiskOptions& disk);
  // Returns the device.
  template <class Device>
  absl::StatusOr<Device*> AddVirtio(std::unique_ptr<Device> device);

  const KvmVm& vm_;
  DeviceMemory& memory_;
  const PcDeviceOptions options_;
  PowerSwitch switch_;
  std::vector<std::unique_ptr<InterruptLine>> lines_;  // whose devices raise them from threads of their own
  std::unique_ptr<Serial> serial_;
  std::unique_ptr<AcpiPm> power_;
  std::unique_ptr<ResetPort> reset_;
  std::unique_ptr<I8042> keyboard_controller_;
  std::unique_ptr<DebugExit> debug_exit_;
  std::vector<std::unique_ptr<MmioTransport>> virtio_;
  VirtioConsole* console_ = nullptr;
  Balloon* balloon_ = nullptr;
  std::atomic<bool> virtio_console_speaks_ = false;  // and not the serial port
  Bus ports_;
  Bus mmio_;
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_PC_DEVICES_H_
