#include "vmm/machine/pc_devices.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/units.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/virtio/disk_image.h"
#include "vmm/virtio/rng.h"

namespace quire {
namespace {

constexpr uint16_t kKeyboardData = 0x60;
constexpr uint16_t kKeyboardCommand = 0x64;

}  // namespace

absl::StatusOr<std::unique_ptr<PcDevices>> PcDevices::Create(const KvmVm& vm, DeviceMemory& memory,
                                                             const PcDeviceOptions& options) {
  QUIRE_CHECK(options.disks.size() <= kMostDisks);
  auto devices = absl::WrapUnique(new PcDevices(vm, memory, options));
  PcDevices* const d = devices.get();
  if (absl::Status status = d->AddPorts(); !status.ok()) return status;
  if (absl::Status status = d->AddVirtio(std::make_unique<VirtioRng>()).status(); !status.ok()) return status;
  absl::StatusOr<Balloon*> balloon = d->AddVirtio(std::make_unique<Balloon>(memory, options.balloon_offer));
  if (!balloon.ok()) return balloon.status();
  d->balloon_ = *balloon;
  d->balloon_->SetTarget(PageCount::Ceil(options.balloon));
  absl::StatusOr<VirtioConsole*> console = d->AddVirtio(std::make_unique<VirtioConsole>([d](absl::string_view bytes) {
    d->virtio_console_speaks_ = true;
    d->options_.console(bytes);
  }));
  if (!console.ok()) return console.status();
  d->console_ = *console;
  for (const DiskOptions& disk : options.disks) {
    if (absl::Status status = d->AddDisk(disk); !status.ok()) return status;
  }
  return devices;
}

PcDevices::~PcDevices() { Stop(); }

absl::Status PcDevices::AddPorts() {
  absl::StatusOr<std::unique_ptr<InterruptLine>> line = InterruptLine::Create(vm_, kCom1Gsi);
  if (!line.ok()) return line.status();
  serial_ = std::make_unique<Serial>([raise = line->get()] { raise->Raise(); },
                                     [this](absl::string_view bytes) {
                                       virtio_console_speaks_ = false;
                                       options_.console(bytes);
                                     });
  lines_.push_back(*std::move(line));
  power_ = std::make_unique<AcpiPm>([this](bool up) { vm_.SetInterrupt(kSciGsi, up); }, switch_);
  reset_ = std::make_unique<ResetPort>(switch_);
  keyboard_controller_ = std::make_unique<I8042>(switch_);
  debug_exit_ = std::make_unique<DebugExit>(options_.exit);
  ports_.Attach(kCom1Port, kCom1Ports, serial_.get());
  ports_.Attach(kPm1EventPort, kPm1EventPorts + kPm1ControlPorts, power_.get());
  ports_.Attach(kResetPort, 1, reset_.get());
  ports_.Attach(kKeyboardData, 1, keyboard_controller_.get(), I8042::kData);
  ports_.Attach(kKeyboardCommand, 1, keyboard_controller_.get(), I8042::kCommand);
  ports_.Attach(kDebugExitPort, kDebugExitPorts, debug_exit_.get());
  return absl::OkStatus();
}

template <class Device>
absl::StatusOr<Device*> PcDevices::AddVirtio(std::unique_ptr<Device> device) {
  const int number = static_cast<int>(virtio_.size());
  absl::StatusOr<std::unique_ptr<InterruptLine>> line = InterruptLine::Create(vm_, VirtioGsi(number));
  if (!line.ok()) return line.status();
  Device* const added = device.get();
  virtio_.push_back(
      std::make_unique<MmioTransport>(std::move(device), memory_, [raise = line->get()] { raise->Raise(); }));
  lines_.push_back(*std::move(line));
  mmio_.Attach(VirtioMmio(number).value(), kVirtioMmioSize.in_bytes(), virtio_.back().get());
  return added;
}

absl::Status PcDevices::AddDisk(const DiskOptions& disk) {
  absl::StatusOr<DiskImage> image =
      DiskImage::Open(disk.path, disk.read_only ? DiskImage::Mode::kReadOnly : DiskImage::Mode::kReadWrite);
  if (!image.ok()) return image.status();
  return AddVirtio(std::make_unique<VirtioBlk>(*std::move(image), memory_)).status();
}

void PcDevices::Serve(const DeviceAccess& access) {
  const Bus& bus = access.bus == DeviceAccess::Bus::kPort ? ports_ : mmio_;
  if (access.write) {
    (void)bus.Write(access.address, access.data);
  } else {
    (void)bus.Read(access.address, access.data);
  }
}

void PcDevices::TypeOnConsole(absl::string_view input) {
  if (virtio_console_speaks_) return console_->Receive(input);
  serial_->Receive(input);
}

void PcDevices::Stop() {
  for (const std::unique_ptr<MmioTransport>& transport : virtio_) transport->Stop();
}

std::vector<std::string> PcDevices::Failures() const {
  std::vector<std::string> failures;
  for (const std::unique_ptr<MmioTransport>& transport : virtio_) {
    const std::string reason = transport->reason();
    if (!reason.empty()) failures.push_back(absl::StrCat(transport->device().name(), ": ", reason));
  }
  return failures;
}

}  // namespace quire
