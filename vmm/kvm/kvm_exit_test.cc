#include "vmm/kvm/kvm_exit.h"

#include <cstring>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

// A vCPU's shared memory: the structure, and the data of port accesses behind it.
struct RunPage {
  kvm_run run = {};
  uint8_t data[64] = {};

  RunPage& Port(uint16_t port, int direction, uint8_t size, uint32_t count, const std::string& bytes = "") {
    run.exit_reason = KVM_EXIT_IO;
    run.io.direction = direction;
    run.io.port = port;
    run.io.size = size;
    run.io.count = count;
    run.io.data_offset = offsetof(RunPage, data);
    std::memcpy(data, bytes.data(), bytes.size());
    return *this;
  }
  RunPage& Reason(uint32_t reason) {
    run.exit_reason = reason;
    return *this;
  }
  template <class Exit>
  Exit As() {
    auto exit = DecodeExit(run);
    EXPECT_TRUE(std::holds_alternative<Exit>(exit)) << "alternative " << exit.index();
    return std::holds_alternative<Exit>(exit) ? std::get<Exit>(exit) : Exit{};
  }
  std::string Sentence() { return As<Death>().sentence; }
};

TEST(DecodeExit, SerialOutputIsBytes) {
  EXPECT_EQ(RunPage().Port(QUIRE_SERIAL_PORT, KVM_EXIT_IO_OUT, 1, 1, "x").As<SerialOutput>().bytes.size(), 1u);
  RunPage string;
  EXPECT_EQ(string.Port(QUIRE_SERIAL_PORT, KVM_EXIT_IO_OUT, 1, 5, "hello").As<SerialOutput>().bytes, "hello");
  RunPage wide;
  EXPECT_EQ(wide.Port(QUIRE_SERIAL_PORT, KVM_EXIT_IO_OUT, 2, 2, "abcd").As<SerialOutput>().bytes, "a");
}

TEST(DecodeExit, ExitAndOtherPortsGiveTheirValue) {
  EXPECT_EQ(RunPage().Port(QUIRE_EXIT_PORT, KVM_EXIT_IO_OUT, 4, 1, "\x78\x56\x34\x12").As<GuestExit>().status,
            0x12345678u);
  EXPECT_EQ(RunPage().Port(QUIRE_EXIT_PORT, KVM_EXIT_IO_OUT, 1, 1, "\x07\xff\xff").As<GuestExit>().status, 7u);
  const PortWrite write = RunPage().Port(0x1234, KVM_EXIT_IO_OUT, 2, 1, "\x34\x12\xff").As<PortWrite>();
  EXPECT_EQ(write.port, 0x1234);
  EXPECT_EQ(write.value, 0x1234u);
}

TEST(DecodeExit, AdviceHasItsValueAndNothingOfTheNeighbouringPorts) {
  RunPage page;
  EXPECT_EQ(page.Port(QUIRE_ADVISE_PORT, KVM_EXIT_IO_OUT, 4, 1, "\x78\x56\x34\x12").As<AdviceWrite>().value,
            0x12345678u);
  EXPECT_EQ(RunPage().Port(QUIRE_ADVISE_PORT, KVM_EXIT_IO_OUT, 1, 1, "\x02\xff").As<AdviceWrite>().value, 2u);
  EXPECT_EQ(RunPage().Port(QUIRE_WIRE_PORT, KVM_EXIT_IO_OUT, 4, 1, "\x02\0\0\0").As<WireWrite>().value, 2u);
  RunPage().Port(QUIRE_FREEZE_PORT, KVM_EXIT_IO_OUT, 4, 1).As<FreezePoint>();
  RunPage().Port(QUIRE_REST_PORT, KVM_EXIT_IO_OUT, 4, 1).As<RestPoint>();
  EXPECT_EQ(RunPage().Port(QUIRE_REST_PORT + 1, KVM_EXIT_IO_OUT, 4, 1).As<PortWrite>().port, QUIRE_REST_PORT + 1);
  EXPECT_EQ(RunPage().Port(QUIRE_ADVISE_PORT, KVM_EXIT_IO_IN, 4, 1).As<PortRead>().bytes, 4u);
}

TEST(DecodeExit, ReadsAreAnsweredInPlace) {
  RunPage page;
  const PortRead read = page.Port(QUIRE_SERIAL_PORT, KVM_EXIT_IO_IN, 2, 3).As<PortRead>();
  EXPECT_EQ(read.data, page.data);
  EXPECT_EQ(read.bytes, 6u);
}

TEST(DecodeExit, EveryDeathHasItsSentence) {
  EXPECT_THAT(RunPage().Reason(KVM_EXIT_SHUTDOWN).Sentence(), HasSubstr("triple fault"));
  EXPECT_THAT(RunPage().Reason(KVM_EXIT_HLT).Sentence(), HasSubstr("halted"));
  RunPage entry;
  entry.run.fail_entry.hardware_entry_failure_reason = 0x80000021;
  EXPECT_EQ(entry.Reason(KVM_EXIT_FAIL_ENTRY).Sentence(),
            "the processor refused to run the guest (hardware reason 0x80000021)");
  RunPage unknown;
  unknown.run.hw.hardware_exit_reason = 0x42;
  EXPECT_THAT(unknown.Reason(KVM_EXIT_UNKNOWN).Sentence(), HasSubstr("0x42"));
  RunPage exception;
  exception.run.ex.exception = 3;
  EXPECT_THAT(exception.Reason(KVM_EXIT_EXCEPTION).Sentence(), HasSubstr("exception 3"));
  EXPECT_THAT(RunPage().Reason(KVM_EXIT_DIRTY_RING_FULL).Sentence(), HasSubstr("exit 31"));
  EXPECT_THAT(RunPage().Reason(0xffffffff).Sentence(), HasSubstr("exit 4294967295"));
}

TEST(DecodeExit, MmioNamesTheAddress) {
  RunPage page;
  page.run.mmio.phys_addr = 0xfee00000;
  page.run.mmio.len = 4;
  EXPECT_EQ(page.Reason(KVM_EXIT_MMIO).Sentence(),
            "read of 4 bytes at guest physical address 0xfee00000, where there is no memory");
  page.run.mmio.is_write = 1;
  EXPECT_EQ(page.Sentence(),
            "write of 4 bytes at guest physical address 0xfee00000, where there is no writable memory");
}

TEST(DecodeExit, InternalErrorsShowTheInstruction) {
  RunPage page;
  page.run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
  EXPECT_EQ(page.Reason(KVM_EXIT_INTERNAL_ERROR).Sentence(), "KVM could not emulate an instruction");
  page.run.emulation_failure.ndata = 3;
  page.run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
  page.run.emulation_failure.insn_size = 3;
  std::memcpy(page.run.emulation_failure.insn_bytes, "\x0f\x0b\x90\xaa", 4);
  EXPECT_EQ(page.Sentence(), "KVM could not emulate an instruction: 0f 0b 90");
  page.run.emulation_failure.insn_size = 255;  // more than there can be
  EXPECT_EQ(page.Sentence().size(), std::string("KVM could not emulate an instruction:").size() + 15 * 3);
  page.run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
  EXPECT_THAT(page.Sentence(), HasSubstr("deliver"));
  page.run.internal.suberror = 99;
  EXPECT_EQ(page.Sentence(), "KVM internal error 99");
}

TEST(DescribeFault, SaysWhatThePageFaultWas) {
  const auto describe = [](uint64_t error_code, uint64_t cr2) {
    return DescribeFault({.vector = 14, .error_code = error_code, .rip = 0x400123}, cr2);
  };
  EXPECT_EQ(describe(4, 0x10), "page fault (#PF) at rip 0x400123: read of 0x10, which is not mapped");
  EXPECT_EQ(describe(6, 0x10), "page fault (#PF) at rip 0x400123: write to 0x10, which is not mapped");
  EXPECT_EQ(describe(7, 0x400000), "page fault (#PF) at rip 0x400123: write to 0x400000, which is not writable");
  EXPECT_EQ(describe(0x15, 0x100000),
            "page fault (#PF) at rip 0x400123: execution of 0x100000, which is not executable");
  EXPECT_THAT(describe(6, kStacksAddress.value() + 3 * kStackStride + QUIRE_STACK_SIZE - 8),
              HasSubstr("its stack is full"));
  EXPECT_THAT(describe(6, kStacksAddress.value() + 3 * kStackStride + QUIRE_STACK_SIZE),
              ::testing::Not(HasSubstr("its stack is full")));
}

TEST(DescribeFault, NamesTheException) {
  EXPECT_EQ(DescribeFault({.vector = 0, .rip = 0x400000}, 0), "divide error (#DE) at rip 0x400000");
  EXPECT_EQ(DescribeFault({.vector = 13, .error_code = 0x18, .rip = 1}, 0),
            "general protection fault (#GP) at rip 0x1, error code 0x18");
  EXPECT_EQ(DescribeFault({.vector = 31, .rip = 1}, 0), "exception 31 at rip 0x1");
}

TEST(FormatRegisters, ShowsAllOfThem) {
  kvm_regs regs = {};
  uint64_t* const all = reinterpret_cast<uint64_t*>(&regs);
  for (size_t i = 0; i < sizeof(regs) / 8; ++i) all[i] = 0xabc0 + i;
  kvm_sregs sregs = {};
  sregs.cr3 = 0xabc5000;
  const std::string text = FormatRegisters(regs, sregs);
  for (size_t i = 0; i < sizeof(regs) / 8; ++i) {
    char digits[8];
    snprintf(digits, sizeof(digits), "%04zx", 0xabc0 + i);
    EXPECT_THAT(text, HasSubstr(digits));
  }
  EXPECT_THAT(text, HasSubstr("cr3=abc5000"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
}

}  // namespace
}  // namespace quire
