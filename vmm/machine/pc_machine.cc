#include "vmm/machine/pc_machine.h"

#include <utility>
#include <variant>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/guest_device_memory.h"
#include "mmu/mapped_device_memory.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/machine_check.h"
#include "vmm/machine/pc_shape.h"

namespace quire {
namespace {

constexpr uint64_t kRunning = 1;  // quire_progress::phase

// How long a vCPU rests when its kernel has been told of a lost page. A kernel that touches it again and again all the
// same costs the host no more than a hundred machine checks a second, of some hundred microseconds each.
constexpr absl::Duration kAfterMachineCheck = absl::Milliseconds(10);

PcVcpu::Start StartOf(const BootPlan& plan) {
  const bool is_long = plan.mode == BootPlan::Mode::kLong;
  return {.mode = is_long ? PcVcpu::Start::Mode::kLong : PcVcpu::Start::Mode::kProtected,
          .rip = plan.entry,
          .rsp = plan.stack.value(),
          .rax = plan.rax,
          .rbx = plan.rbx,
          .rsi = plan.rsi,
          .page_tables = plan.page_tables,
          .gdt = plan.gdt,
          .gdt_limit = plan.gdt_limit,
          .code = kBootCodeSelector,
          .data = kBootDataSelector,
          .task = kBootTaskSelector};
}

}  // namespace

absl::StatusOr<std::unique_ptr<PcMachine>> PcMachine::Create(const KvmSystem& system, const PcMachineOptions& options,
                                                             Pool* pool, GuestMemory* memory) {
  auto machine = absl::WrapUnique(new PcMachine(options, memory));
  KvmWindowOptions window = options.window;
  window.bars_lost_pages = memory != nullptr && HasMachineChecks(system);
  if (window.bars_lost_pages) memory->LiveWithLoss();
  absl::Status status = machine->MapMemory(options.memory, options.anonymous_blocks, window, pool);
  if (status.ok()) status = machine->Assemble(system, options);
  if (!status.ok()) return status;
  return machine;
}

absl::Status PcMachine::Assemble(const KvmSystem& system, const PcMachineOptions& options) {
  if (absl::Status status = CreateVm(system); !status.ok()) return status;
  if (absl::Status status = vm().AddPcChips(); !status.ok()) return status;
  if (absl::Status status = AddMemslots(); !status.ok()) return status;
  if (absl::Status status = AddDevices(options); !status.ok()) return status;
  const absl::StatusOr<PcVcpu::Start> start = LoadKernel(options);
  if (!start.ok()) return start.status();
  for (int i = 0; i < options.vcpus; ++i) {
    absl::StatusOr<std::unique_ptr<PcVcpu>> vcpu = PcVcpu::Create(vm(), i, options.vcpus);
    if (!vcpu.ok()) return vcpu.status();
    vcpus_.push_back(*std::move(vcpu));
  }
  return vcpus_.front()->Boot(*start);
}

absl::Status PcMachine::AddMemslots() {
  absl::Status status;
  for (size_t i = 0; i < regions_.size(); ++i) {
    const GuestRegion& region = regions_[i];
    status.Update(vm().SetMemslot(i == 0 ? Memslot::kMemory : Memslot::kHighMemory, region.gpa,
                                  region.pages.size().bytes(), hva() + (region.pages.begin() - Gfn(0)).bytes(),
                                  Protection::kReadWrite));
  }
  return status;
}

absl::Status PcMachine::AddDevices(const PcMachineOptions& options) {
  if (memory() != nullptr) {
    device_memory_ = std::make_unique<GuestDeviceMemory>(*memory(), regions_);
  } else {
    device_memory_ = std::make_unique<MappedDeviceMemory>(
        absl::MakeSpan(anonymous().data(), anonymous().size().in_bytes()), regions_);
  }
  PcDeviceOptions device_options = options.devices;
  device_options.power = [this](PowerEvent event) {
    EndItself(event == PowerEvent::kPowerOff ? End::kPowerOff : End::kReset);
  };
  device_options.exit = [this](uint32_t status) {
    exit_status_.store(status, std::memory_order_relaxed);
    EndItself(End::kExit);
  };
  absl::StatusOr<std::unique_ptr<PcDevices>> devices = PcDevices::Create(vm(), *device_memory_, device_options);
  if (!devices.ok()) return devices.status();
  devices_ = *std::move(devices);
  return absl::OkStatus();
}

absl::StatusOr<PcVcpu::Start> PcMachine::LoadKernel(const PcMachineOptions& options) {
  const absl::StatusOr<BootPlan> plan = PlanBoot({.kernel = *options.kernel,
                                                  .initrd = options.initrd,
                                                  .command_line = options.command_line,
                                                  .memory = options.memory,
                                                  .vcpus = options.vcpus,
                                                  .virtio_devices = PcVirtioDevices(options.devices.disks.size())});
  if (!plan.ok()) return plan.status();
  for (const BootPlan::Piece& piece : plan->pieces) {
    if (absl::Status status = device_memory_->Write(piece.gpa, piece.bytes()); !status.ok()) return status;
  }
  return StartOf(*plan);
}

// The first way counts: another vCPU may choose another.
void PcMachine::EndItself(End how) {
  End none = End::kNone;
  end_.compare_exchange_strong(none, how, std::memory_order_release, std::memory_order_relaxed);
  RequestStop();
}

void PcMachine::RequestStop() {
  off_.store(true, std::memory_order_release);
  KickVcpus();
}

absl::Status PcMachine::RunVcpu(int vcpu) {
  PcVcpu& cpu = *vcpus_[static_cast<size_t>(vcpu)];
  while (!killed() && !off_.load(std::memory_order_acquire)) {
    PcExit exit = RunPastRemappings(cpu);
    if (const auto* access = std::get_if<DeviceAccess>(&exit)) {
      if (absl::Status status = Serve(cpu, *access); !status.ok()) return status;
    } else if (const auto* death = std::get_if<Death>(&exit)) {
      return Died(*death);
    } else if (std::holds_alternative<TripleFault>(exit)) {
      return Died(cpu.Die("triple fault: the guest's kernel could not handle an exception"));
    } else if (const auto* fault = std::get_if<MemoryFault>(&exit)) {
      if (!fault->lost.has_value()) return Died(cpu.Die(std::string(kCannotTranslate)));
      if (absl::Status status = TellOfLostPage(vcpu, *fault->lost); !status.ok()) return status;
    } else if (absl::Status status = JoinMachineCheck(vcpu); !status.ok()) {  // Interrupted
      return status;
    }
  }
  if (end() != End::kExit || exit_status() == 0) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("its kernel ended with status ", exit_status()));
}

// An instruction that KVM emulates finds memory out of reach: KVM takes it for a device's register then. It is memory
// all the same, and reads as what it holds.
absl::Status PcMachine::Serve(const PcVcpu& cpu, const DeviceAccess& access) {
  const ByteCount size = ByteCount::Bytes(access.data.size());
  const Gpa address(access.address);
  if (access.bus == DeviceAccess::Bus::kPort || !PartsOf(regions_, address, size).ok()) {
    devices_->Serve(access);
    return absl::OkStatus();
  }
  const absl::Status status =
      access.write ? device_memory_->Write(address, access.data) : device_memory_->Read(address, access.data);
  return status.ok() ? status : Died(cpu.Die(absl::StrCat("KVM cannot emulate an access: ", status.message())));
}

absl::Status PcMachine::TellOfLostPage(int vcpu, Gfn gfn) {
  PcVcpu& cpu = *vcpus_[static_cast<size_t>(vcpu)];
  const absl::StatusOr<bool> others = cpu.RaiseMachineCheck(AddressOf(regions_, gfn));
  if (!others.ok()) {
    return Died(cpu.Die(absl::StrCat("page ", gfn.value(), " of ", name(),
                                     " is lost: the memory that held it has failed, and ", others.status().message())));
  }
  machine_checks_.Add();
  if (*others) TellElsewhere(vcpu);
  absl::SleepFor(kAfterMachineCheck);
  return absl::OkStatus();
}

// First what is wanted, then the kick: VcpuFile::Kick.
void PcMachine::TellElsewhere(int vcpu) {
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    if (i == static_cast<size_t>(vcpu)) continue;
    told_elsewhere_[i].store(true, std::memory_order_release);
    vcpus_[i]->Kick();
  }
}

absl::Status PcMachine::JoinMachineCheck(int vcpu) {
  const size_t i = static_cast<size_t>(vcpu);
  return told_elsewhere_[i].exchange(false, std::memory_order_acq_rel) ? vcpus_[i]->JoinMachineCheck()
                                                                       : absl::OkStatus();
}

void PcMachine::KickVcpus() {
  for (const std::unique_ptr<PcVcpu>& vcpu : vcpus_) vcpu->Kick();
}

quire_progress PcMachine::ReadProgressOf(int /*vcpu*/) const {
  quire_progress progress = {};
  progress.phase = kRunning;
  return progress;
}

}  // namespace quire
