#include "vmm/boot/boot_plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/boot_info.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/kvm/guest_page_tables.h"
#include "vmm/text.h"

namespace quire {
namespace {

// Descriptors (Intel SDM volume 3, 3.4.5): flat, present, privilege level 0, accessed, so that nothing writes to them.
constexpr uint64_t kCode64 = 0x00af'9b00'0000'ffff;
constexpr uint64_t kCode32 = 0x00cf'9b00'0000'ffff;
constexpr uint64_t kData = 0x00cf'9300'0000'ffff;
constexpr uint64_t kTask = 0x0000'8b00'0000'0067;  // busy; in 64-bit mode its upper half is the entry that follows

// A Multiboot command line begins with the name of the kernel, as every loader has it.
constexpr absl::string_view kMultibootProgram = "kernel ";

template <class... Args>
absl::Status Error(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

class Planner {
 public:
  explicit Planner(const BootRequest& request) : request_(request), kernel_(request.kernel) {}

  absl::StatusOr<BootPlan> Plan() &&;

 private:
  absl::Status CheckMachine();
  absl::Status AddKernel();
  absl::Status AddInitrd();
  absl::Status AddCommandLine();
  absl::Status AddTables();
  absl::Status AddBootInfo();

  absl::Status ErrorOfInitrd(Gpa limit) const;
  void AddGdt();
  void AddPageTables();
  void AddMade(Gpa gpa, std::vector<std::byte> bytes);
  void AddOfFile(Gpa gpa, absl::Span<const std::byte> bytes);

  const BootRequest& request_;
  const KernelImage& kernel_;
  Gpa low_end_;
  BootFacts facts_;
  BootPlan plan_;
};

void Planner::AddMade(Gpa gpa, std::vector<std::byte> bytes) {
  plan_.pieces.push_back({.gpa = gpa, .made = std::move(bytes), .of_file = {}});
}

void Planner::AddOfFile(Gpa gpa, absl::Span<const std::byte> bytes) {
  if (!bytes.empty()) plan_.pieces.push_back({.gpa = gpa, .made = {}, .of_file = bytes});
}

absl::Status Planner::CheckMachine() {
  if (request_.memory < kPcMinMemory || request_.memory > kPcMaxMemory) {
    return Error("a guest with a kernel takes ", FormatSize(kPcMinMemory), " to ", FormatSize(kPcMaxMemory),
                 " of memory, not ", FormatSize(request_.memory));
  }
  if (request_.vcpus < 1 || request_.vcpus > kMaxPcVcpus) {
    return Error("a guest with a kernel takes 1 to ", kMaxPcVcpus, " vCPUs, not ", request_.vcpus);
  }
  if (request_.virtio_devices < 0 || request_.virtio_devices > kMaxVirtioDevices) {
    return Error("a guest takes at most ", kMaxVirtioDevices, " virtio devices, not ", request_.virtio_devices);
  }
  low_end_ = ToGpa(PcRegions(request_.memory).front().pages.end());
  return absl::OkStatus();
}

absl::Status Planner::AddKernel() {
  if (kernel_.end() > low_end_) {
    return Error(kernel_.name, ": the kernel takes memory up to ", FormatSize(ByteCount::Bytes(kernel_.end().value())),
                 ", and the guest has ", FormatSize(request_.memory), ": give the guest more with --memory");
  }
  for (const KernelSegment& segment : kernel_.segments) AddOfFile(segment.address, segment.content);
  return absl::OkStatus();
}

absl::Status Planner::ErrorOfInitrd(Gpa limit) const {
  const std::string begin =
      absl::StrCat("the initrd of ", FormatSize(ByteCount::Bytes(request_.initrd.size())), " does not fit into ");
  const std::string kernel =
      absl::StrCat(" beside the kernel, which takes the first ", FormatSize(ByteCount::Bytes(kernel_.end().value())));
  if (limit == low_end_ && low_end_ < kLowMemoryLimit) {
    return Error(begin, FormatSize(request_.memory), " of memory", kernel, ": give the guest more with --memory");
  }
  return Error(begin, "the memory below ", FormatSize(ByteCount::Bytes(limit.value())), ", where it has to be,", kernel,
               ": make it smaller");
}

// As high as it may be: the kernel's own memory grows upwards from where it is.
absl::Status Planner::AddInitrd() {
  if (request_.initrd.empty()) return absl::OkStatus();
  const Gpa limit = std::min(low_end_, kernel_.initrd_limit);
  const uint64_t size = request_.initrd.size();
  if (limit < kernel_.end() || size > limit.value() - kernel_.end().value()) return ErrorOfInitrd(limit);
  const Gpa begin = ToGpa(Gpa(limit.value() - size).gfn());
  if (begin < kernel_.end()) return ErrorOfInitrd(limit);
  facts_.initrd = begin;
  facts_.initrd_size = ByteCount::Bytes(size);
  AddOfFile(begin, request_.initrd);
  return absl::OkStatus();
}

absl::Status Planner::AddCommandLine() {
  std::string text = request_.command_line;
  if (text.find('\0') != std::string::npos) return Error("the kernel's command line has a zero byte in it");
  if (kernel_.format == KernelFormat::kMultiboot) text.insert(0, kMultibootProgram.data(), kMultibootProgram.size());
  const ByteCount limit = std::min(kernel_.command_line_limit, ByteCount::Bytes(kBootCommandLineRoom.in_bytes() - 1));
  if (text.size() > limit.in_bytes()) {
    return Error("the kernel's command line has ", text.size(), " characters, and ", kernel_.name, " takes at most ",
                 limit.in_bytes());
  }
  facts_.command_line = kBootCommandLine;
  facts_.command_line_size = ByteCount::Bytes(text.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(text.c_str());
  AddMade(kBootCommandLine, {bytes, bytes + text.size() + 1});
  return absl::OkStatus();
}

void Planner::AddGdt() {
  const uint64_t code = plan_.mode == BootPlan::Mode::kLong ? kCode64 : kCode32;
  const uint64_t entries[] = {0, 0, code, kData, kTask, 0};
  static_assert(kBootCodeSelector == 2 * 8 && kBootDataSelector == 3 * 8 && kBootTaskSelector == 4 * 8);
  std::vector<std::byte> bytes(sizeof(entries));
  std::memcpy(bytes.data(), entries, sizeof(entries));
  AddMade(kBootGdt, std::move(bytes));
  plan_.gdt = kBootGdt;
  plan_.gdt_limit = sizeof(entries) - 1;
}

void Planner::AddPageTables() {
  const GuestMapping identity = {
      .address = Gva(0), .gpa = Gpa(0), .size = ByteCount::GiB(4), .writable = true, .executable = true, .user = false};
  std::vector<std::byte> tables(CountPageTables({&identity, 1}).in_bytes());
  QUIRE_CHECK(kBootPageTables + ByteCount::Bytes(tables.size()) <= kBootInfo);
  WritePageTables({&identity, 1}, kBootPageTables, absl::MakeSpan(tables));
  AddMade(kBootPageTables, std::move(tables));
  plan_.page_tables = kBootPageTables;
}

absl::Status Planner::AddTables() {
  plan_.mode = kernel_.format == KernelFormat::kBzImage ? BootPlan::Mode::kLong : BootPlan::Mode::kProtected;
  AddGdt();
  if (plan_.mode == BootPlan::Mode::kLong) AddPageTables();
  AddMade(kAcpiBegin, BuildAcpiTables(request_.vcpus, request_.virtio_devices));
  facts_.rsdp = kAcpiBegin;
  return absl::OkStatus();
}

absl::Status Planner::AddBootInfo() {
  const std::vector<MemoryMapEntry> map = PcMemoryMap(request_.memory);
  facts_.memory_map = map;
  std::vector<std::byte> info;
  switch (kernel_.format) {
    case KernelFormat::kBzImage:
      info = BuildBootParams(kernel_, facts_);
      plan_.rsi = kBootInfo.value();
      break;
    case KernelFormat::kPvhElf:
      info = BuildStartInfo(facts_);
      plan_.rbx = kBootInfo.value();
      break;
    case KernelFormat::kMultiboot:
      info = BuildMultibootInfo(facts_);
      plan_.rax = kMultibootLoaderMagic;
      plan_.rbx = kBootInfo.value();
      break;
  }
  QUIRE_CHECK(kBootInfo + ByteCount::Bytes(info.size()) <= Gpa(kBootStack.value() - kPageSize));
  AddMade(kBootInfo, std::move(info));
  return absl::OkStatus();
}

absl::StatusOr<BootPlan> Planner::Plan() && {
  for (auto step : {&Planner::CheckMachine, &Planner::AddKernel, &Planner::AddInitrd, &Planner::AddCommandLine,
                    &Planner::AddTables, &Planner::AddBootInfo}) {
    if (absl::Status status = (this->*step)(); !status.ok()) return status;
  }
  plan_.entry = kernel_.entry.value();
  plan_.stack = kBootStack;
  std::sort(plan_.pieces.begin(), plan_.pieces.end(),
            [](const BootPlan::Piece& a, const BootPlan::Piece& b) { return a.gpa < b.gpa; });
  return std::move(plan_);
}

}  // namespace

absl::StatusOr<BootPlan> PlanBoot(const BootRequest& request) { return Planner(request).Plan(); }

}  // namespace quire
