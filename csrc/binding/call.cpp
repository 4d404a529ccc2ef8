#include "binding/call.h"

#include <chrono>
#include <set>
#include <thread>

namespace halfbyte {
namespace {

namespace nb = nanobind;

// All of it is read and written with the GIL held.
struct Calls {
    int under_way = 0;  // begun, and not back at the GIL
    int forks = 0;      // those before which `under_way` was counted
    bool ended = false;
    std::thread::id ends;  // the thread that ends the process
    std::set<Interrupt*> interrupts;
};

Calls& calls() {
    static auto* all = new Calls;        // never destroyed: threads may outlive static objects
    if (all->forks != forks_so_far()) {  // the calls of other threads stayed in the parent
        all->forks = forks_so_far();
        all->under_way = 0;
    }
    return *all;
}

PyThreadState* begin() {
    Calls& c = calls();
    if (c.ended && std::this_thread::get_id() != c.ends) {
        PyErr_SetString(PyExc_SystemExit, "the process ends");
        throw nb::python_error();
    }
    ++c.under_way;
    return PyEval_SaveThread();
}

// Each call is seen to its end by looking, not by being told, so there is no wake-up to lose.
void end_calls() {
    Calls& c = calls();
    c.ended = true;
    c.ends = std::this_thread::get_id();
    for (Interrupt* interrupt : c.interrupts) interrupt->wanted = true;
    while (c.under_way > 0) {
        nb::gil_scoped_release release;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

}  // namespace

Call::Call() : python_(begin()), unforked_(unforked()) {}

Call::Call(std::mutex& of) : python_(begin()), unforked_(unforked()), lock_(of) {}

Call::~Call() {
    if (lock_.owns_lock()) lock_.unlock();
    unforked_.unlock();
    PyEval_RestoreThread(python_);
    --calls().under_way;
}

Interrupt::Interrupt() { calls().interrupts.insert(this); }
Interrupt::~Interrupt() { calls().interrupts.erase(this); }

void register_end_of_calls() {
    // What a daemon thread holds is not freed; that is no leak to tell users of.
    nb::set_leak_warnings(false);
    nb::module_::import_("atexit").attr("register")(nb::cpp_function(&end_calls));
}

}  // namespace halfbyte
